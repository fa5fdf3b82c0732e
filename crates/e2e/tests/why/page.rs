//! `shoutdctl dashboard` in a real browser. What the page shows is compared with the cluster.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use shoutd_e2e::{Cluster, GroupSocket, Network, SOON, Sources, inside_host, one_on_each};
use shoutd_lab::{Host, Process, wait_until};

use super::packets::Drops;

const GROUP: &str = "224.1.1.1";

/// Python packages of the test: the driver, and the accessibility check.
const PACKAGES: [&str; 2] = ["selenium==4.30.0", "axe-playwright-python==0.1.8"];

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/why/browser.py");

/// Where the packages are installed.
const PLACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/browser");

/// Where screenshots are left, for the docs and for a look after a failure.
const SHOTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/screenshots");

fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.with_context(|| format!("run {program}"))?;
    let printed = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(output.status.success(), "{program} {}: {printed}", arguments.join(" "));
    Ok(printed)
}

/// Installs the packages, and returns the Python with them and the script of the check.
fn install() -> Result<(PathBuf, PathBuf)> {
    let place = Path::new(PLACE);
    let python = place.join("bin/python3");
    let done = place.join("installed");
    let wanted = PACKAGES.join(" ");
    if std::fs::read_to_string(&done).ok().as_deref() != Some(&wanted) {
        run("python3", &["-m", "venv", PLACE])?;
        let pip = place.join("bin/pip").display().to_string();
        run(&pip, &["install", "--quiet", PACKAGES[0]])?;
        // Only its file is used, not what would run it.
        run(&pip, &["install", "--quiet", "--no-deps", PACKAGES[1]])?;
        std::fs::write(&done, wanted).context("note what is installed")?;
    }
    let found = run(
        &python.display().to_string(),
        &[
            "-c",
            "import importlib.util as util; print(util.find_spec('axe_playwright_python')\
         .submodule_search_locations[0])",
        ],
    )?;
    Ok((python, Path::new(found.trim()).join("axe.min.js")))
}

/// A browser on a lab host.
struct Browser {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    axe: PathBuf,
    _profile: tempfile::TempDir,
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The script ends with its input, and ends the browser.
        let _ = writeln!(self.input, "[\"end\"]");
        let _ = self.process.wait();
    }
}

impl Browser {
    fn start(host: &Host) -> Result<Self> {
        let (python, axe) = install()?;
        let profile = tempfile::tempdir().context("make a directory")?;
        let mut process = inside_host(host, || {
            let mut command = Command::new(&python);
            command.arg(SCRIPT).arg(profile.path());
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            command.spawn().context("start the browser")
        })?;
        let input = process.stdin.take().context("its input")?;
        let output = BufReader::new(process.stdout.take().context("its output")?);
        let mut browser = Self { process, input, output, axe, _profile: profile };
        ensure!(browser.answer()? == "ready", "the browser does not start");
        Ok(browser)
    }

    fn answer(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.output.read_line(&mut line).context("read the browser's answer")?;
        serde_json::from_str(&line).with_context(|| format!("the browser answered {line:?}"))
    }

    fn tell(&mut self, command: &Value) -> Result<Value> {
        writeln!(self.input, "{command}").context("tell the browser")?;
        self.answer()
    }

    fn script(&mut self, script: &str) -> Result<Value> {
        self.tell(&json!(["run", script]))
    }

    /// The text of the first element that the selector names.
    fn text(&mut self, selector: &str) -> Result<String> {
        let script = format!("return document.querySelector({selector:?})?.innerText ?? ''");
        Ok(self.script(&script)?.as_str().unwrap_or_default().to_owned())
    }

    fn count(&mut self, selector: &str) -> Result<u64> {
        let script = format!("return document.querySelectorAll({selector:?}).length");
        self.script(&script)?.as_u64().context("a number")
    }

    fn await_text(&mut self, selector: &str, wanted: &str) -> Result<()> {
        let mut last = String::new();
        let waited = wait_until(&format!("{selector} to have {wanted:?}"), SOON, || {
            last = self.text(selector)?;
            Ok(last.contains(wanted).then_some(()))
        });
        waited.with_context(|| format!("it has {last:?}"))
    }

    fn await_count(&mut self, selector: &str, wanted: u64) -> Result<()> {
        let mut last = 0;
        let waited = wait_until(&format!("{wanted} of {selector}"), SOON, || {
            last = self.count(selector)?;
            Ok((last == wanted).then_some(()))
        });
        waited.with_context(|| format!("there are {last}"))
    }

    fn keys(&mut self, keys: &str) -> Result<()> {
        self.tell(&json!(["keys", keys])).map(drop)
    }

    /// Nothing is wrong for people who do not see the page, or see it badly.
    fn ensure_accessible(&mut self, what: &str) -> Result<()> {
        let axe = self.axe.clone();
        let violations = self.tell(&json!(["axe", axe]))?;
        ensure!(violations == json!([]), "{what}: {violations:#}");
        Ok(())
    }

    fn shoot(&mut self, name: &str) -> Result<()> {
        std::fs::create_dir_all(SHOTS).context("make a directory")?;
        self.tell(&json!(["shot", format!("{SHOTS}/{name}.png")])).map(drop)
    }

    /// The page is not wider than its window.
    fn ensure_fits(&mut self, what: &str) -> Result<()> {
        let script = "const root = document.documentElement; \
                      return root.scrollWidth - root.clientWidth";
        let mut beyond = Value::Null;
        let fits = wait_until(&format!("{what} to fit"), SOON, || {
            beyond = self.script(script)?;
            Ok((beyond == 0).then_some(()))
        });
        fits.with_context(|| format!("the page is {beyond} pixels too wide"))
    }
}

/// Starts the page on the host, and returns its address.
fn serve(host: &Host, options: &[&str]) -> Result<(Process, String)> {
    let process = host.spawn(["shoutdctl", "dashboard"].iter().chain(options))?;
    let line = process.wait_for_line(SOON, |line| line.contains("/?token="))?;
    Ok((process, line.trim().to_owned()))
}

pub(crate) fn shows_the_cluster(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [first, second, third] = &hosts;
    let _foo = Network::create(cluster, first, "foo", &[])?;
    let containers = one_on_each(&hosts, "foo", &[])?;
    let member = GroupSocket::open(&containers[1], true, 5001)?;
    member.join(GROUP.parse()?, Sources::All)?;
    let (page, address) = serve(first, &[])?;
    refuses_strangers(first, &address)?;
    let mut browser = Browser::start(first)?;
    let opened = browser.tell(&json!(["open", address]))?;
    ensure!(!opened.to_string().contains("token"), "the token stays in the address: {opened}");
    browser.tell(&json!(["size", 1400, 900]))?;

    browser.await_count(".host.well", 3)?;
    browser.await_count(".chip", 3)?;
    browser.await_text("#summary", "no problems")?;
    for (host, container) in hosts.iter().zip(&containers) {
        browser.await_text(&format!("[data-host=\"{}\"]", host.name()), &container.name)?;
    }
    let row = format!("tr.group[data-group=\"{GROUP}\"]");
    browser.await_text(&row, "foo")?;

    // By keys: the group's tree, with what sends and what listens.
    let stream = containers[0].spawn("iperf -u -c 224.1.1.1 -T 4 -t 120 -b 1M")?;
    browser.await_count(&format!("{row}:not([data-rate=\"0\"])"), 1)?;
    browser.keys("j")?;
    browser.await_text(".cause.good", "Nothing is broken")?;
    browser.await_text(".chip.sends", &containers[0].name)?;
    browser.await_text(".chip.receives", &containers[1].name)?;
    browser.await_count("#tree path.flows", 1)?;
    browser.ensure_accessible("a group is chosen")?;
    browser.shoot("group")?;

    // The tunnel to the member is blocked: the page says so by itself.
    let rule = format!("ip saddr {} udp dport 7789", first.address());
    let drops = Drops::on(second, &rule)?;
    browser.await_text(".cause.broken", "through the tunnel arrives at")?;
    browser.await_count(".host.ill", 2)?;
    browser.shoot("broken")?;
    drop(drops);
    browser.await_text(".cause.good", "Nothing is broken")?;
    browser.await_count(".host.well", 3)?;

    browser.keys("Escape")?;
    browser.await_count("#panel[hidden]", 1)?;
    browser.await_count("#tree path", 0)?;
    browser.script(&format!(
        "document.querySelector('[data-open-host=\"{}\"]').click()",
        second.name()
    ))?;
    browser.await_text("#panel table", "carries")?;
    browser.ensure_accessible("a host is chosen")?;
    browser.keys("Escape")?;

    browser.keys("/")?;
    browser.keys(&containers[2].name)?;
    browser.await_count(".chip:not(.misses)", 1)?;
    browser.await_text("#found", "1 found")?;
    browser.keys("Escape")?;

    // On a phone, and dark.
    browser.tell(&json!(["size", 400, 800]))?;
    browser.script("document.activeElement.blur()")?;
    browser.ensure_fits("a phone")?;
    browser.keys("t")?;
    browser.ensure_accessible("the other theme")?;
    browser.shoot("phone")?;
    drop(stream);

    third.sh("shoutdctl stop")?;
    browser.await_count(".host.away", 1)?;
    third.sh("shoutdctl start")?;
    browser.await_count(".host.well", 3)?;
    let console = browser.tell(&json!(["console"]))?;
    ensure!(console == json!([]), "the console has errors: {console:#}");
    drop((page, member));
    by_tls(second, &mut browser)
}

/// Without the token, there is nothing to see.
fn refuses_strangers(host: &Host, address: &str) -> Result<()> {
    let base = address.split("?token=").next().context("an address")?;
    for path in ["", "changes", "group?network=foo&group=224.1.1.1", "page.js", "?token=x"] {
        let answer =
            host.run(["busybox", "wget", "-S", "-q", "-O", "-", &format!("{base}{path}")])?;
        ensure!(!answer.success() && answer.stderr.contains("403 Forbidden"), "/{path}: {answer}");
    }
    Ok(())
}

/// On an address of the underlay, the page is encrypted.
fn by_tls(host: &Host, browser: &mut Browser) -> Result<()> {
    let (mut page, address) = serve(host, &["--address", &host.address().to_string()])?;
    ensure!(address.starts_with("https://"), "{address}");
    page.wait_for_line(SOON, |line| line.contains("SHA-256 fingerprint"))?;
    browser.tell(&json!(["open", address]))?;
    browser.await_count(".host.well", 3)?;
    page.terminate()
}
