//! `shoutdctl deploy`: installs and starts shoutd on all hosts of a cluster, by the system's `ssh`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use futures::future::try_join_all;
use ring::digest::{SHA256, digest};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

/// The programs that each host needs.
const PROGRAMS: [&str; 2] = ["shoutd", "shoutdctl"];

/// How long a command on a host may take. `shoutdctl start` waits up to 60 s.
const COMMAND_TIME_MAX: Duration = Duration::from_secs(120);

/// How long a program may take to be copied.
const COPY_TIME_MAX: Duration = Duration::from_secs(600);

/// How long ssh may take to connect, in seconds.
const CONNECT_SECONDS: u8 = 15;

/// Install and start shoutd on all hosts of a cluster by ssh
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  shoutdctl deploy --hosts host1,host2,host3
  shoutdctl deploy --hosts root@192.0.2.1,root@192.0.2.2 --advertise-network 198.51.100.0/24

ssh must log in without a question, as root or as a user that sudo lets be root. Hosts that have \
                        shoutd keep it, and members of the cluster are left as they are: type the \
                        same line again to add hosts or to continue after an error.

Exit codes: 0 if all hosts are members of one cluster, 1 if not, 2 for a wrong command line.")]
pub struct Deploy {
    /// The hosts, separated by commas, as ssh takes them. The first one founds the cluster, if none
    /// of them is in one yet
    #[arg(long, value_name = "HOSTS", value_delimiter = ',', required = true, value_parser = host)]
    hosts: Vec<String>,

    /// Network in which each host has the address to advertise; by default, a host advertises the
    /// address at which ssh reaches it
    #[arg(long, value_name = "NETWORK")]
    advertise_network: Option<ipnet::IpNet>,

    /// Directory of the programs on the hosts
    #[arg(long, value_name = "DIR", default_value = "/usr/local/bin")]
    directory: PathBuf,
}

/// A host as ssh takes it. It must not look like an option of ssh.
fn host(text: &str) -> Result<String, String> {
    let is_fit = |c: char| c.is_ascii_alphanumeric() || "-_.@:%[]".contains(c);
    if text.is_empty() || text.starts_with('-') || !text.chars().all(is_fit) {
        return Err("give a name or an address, or user@name".to_owned());
    }
    Ok(text.to_owned())
}

/// A host that ssh reaches.
struct Remote {
    name: String,
    /// What it advertises, as `shoutdctl start` takes it.
    advertised: String,
    /// Its `shoutdctl`.
    program: String,
    /// The cluster that it is a member of, and its address there.
    member_of: Option<(String, String)>,
}

impl Deploy {
    /// Deploys, and prints the table of hosts.
    ///
    /// # Errors
    /// A host cannot be reached, is of another architecture, belongs to another cluster, or its
    /// shoutd does not start.
    pub async fn run(self) -> Result<()> {
        let prepared = self.hosts.iter().map(|host| self.prepare(host));
        let mut remotes = try_join_all(prepared).await?;
        let founder = match remotes.iter().position(|remote| remote.member_of.is_some()) {
            Some(member) => remotes.remove(member),
            None => found(remotes.remove(0)).await?,
        };
        let Some((cluster, address)) = founder.member_of.clone() else {
            bail!("{} is not a member of a cluster after its start", founder.name);
        };
        let shown = founder.shoutdctl("token show", None).await?;
        let token = shown.split_whitespace().find_map(|word| word.strip_prefix("--token="));
        let token = token.with_context(|| format!("{} shows no token", founder.name))?;
        let joins = remotes.iter().map(|remote| join(remote, &cluster, &address, token));
        try_join_all(joins).await?;
        println!(
            "{}",
            ssh(&founder.name, &sudo(&format!("{} hosts", founder.program)), None).await?
        );
        Ok(())
    }

    /// Sees what a host has, and copies the programs to it if they are missing.
    async fn prepare(&self, name: &str) -> Result<Remote> {
        let facts = ssh(name, "uname -m; echo \"$SSH_CONNECTION\"", None).await?;
        let mut lines = facts.lines();
        let (machine, connection) = (lines.next().unwrap_or(""), lines.next().unwrap_or(""));
        ensure!(
            machine == std::env::consts::ARCH,
            "{name} is a machine of {machine}, and this shoutd is for {}",
            std::env::consts::ARCH
        );
        let advertised = match self.advertise_network {
            Some(network) => network.to_string(),
            None => own_address(connection)
                .with_context(|| format!("{name} does not say at which address ssh reached it"))?
                .to_string(),
        };
        let program = self.install(name).await?;
        let remote = Remote { name: name.to_owned(), advertised, program, member_of: None };
        let member_of = remote.member_of().await?;
        Ok(Remote { member_of, ..remote })
    }

    /// The path of the host's `shoutdctl`: the one that it has elsewhere, such as by a package, or
    /// the copy that this makes.
    async fn install(&self, name: &str) -> Result<String> {
        let own = self.directory.join("shoutdctl").display().to_string();
        let found = ssh(name, &sudo("command -v shoutdctl || true"), None).await?;
        let found = found.trim();
        if !found.is_empty() && found != own {
            println!("{name}: has shoutd already ({found})");
            return Ok(found.to_owned());
        }
        for program in PROGRAMS {
            let local = local(program)?;
            let octets = tokio::fs::read(&local).await;
            let octets = octets.with_context(|| format!("cannot read {}", local.display()))?;
            let target = quote(&self.directory.join(program));
            let there = ssh(name, &sudo(&format!("sha256sum {target} 2>&1 || true")), None).await?;
            if there.starts_with(&checksum(&octets)) {
                continue;
            }
            let directory = quote(&self.directory);
            let copy = format!(
                "mkdir -p {directory} && cat > {target}.new && chmod 755 {target}.new && mv -f \
                 {target}.new {target}"
            );
            ssh(name, &sudo(&copy), Some(&octets)).await?;
            println!("{name}: copied {program}");
        }
        Ok(quote(Path::new(&own)))
    }
}

/// The program beside this one.
fn local(program: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find this program")?;
    Ok(own.with_file_name(program))
}

fn checksum(octets: &[u8]) -> String {
    digest(&SHA256, octets).as_ref().iter().map(|octet| format!("{octet:02x}")).collect()
}

/// The server's address in `SSH_CONNECTION` (sshd(8)): the third of four words.
fn own_address(connection: &str) -> Option<IpAddr> {
    connection.split_whitespace().nth(2)?.parse().ok()
}

/// The cluster and the address of a member, by its `shoutdctl status --json`.
fn member_of(status: &str) -> Option<(String, String)> {
    let status: Value = serde_json::from_str(status).ok()?;
    let text = |name: &str| status[name].as_str().map(str::to_owned);
    (status["membership"]["state"] == "member").then_some(())?;
    Some((text("cluster")?, text("address")?))
}

impl Remote {
    /// What its `shoutdctl` prints with these arguments.
    async fn shoutdctl(&self, arguments: &str, input: Option<&[u8]>) -> Result<String> {
        ssh(&self.name, &sudo(&format!("{} {arguments}", self.program)), input).await
    }

    /// The cluster that it is a member of, and its address there.
    async fn member_of(&self) -> Result<Option<(String, String)>> {
        // The exit code is not 0 if there are problems, or no daemon.
        Ok(member_of(&self.shoutdctl("status --json || true", None).await?))
    }
}

async fn found(host: Remote) -> Result<Remote> {
    let said = host.shoutdctl(&format!("start {}", host.advertised), None).await?;
    println!("{}: {}", host.name, said.lines().next().unwrap_or_default());
    let member_of = host.member_of().await?;
    Ok(Remote { member_of, ..host })
}

/// Lets a host join the cluster, unless it is in it.
async fn join(host: &Remote, cluster: &str, address: &str, token: &str) -> Result<()> {
    let Remote { name, advertised, .. } = host;
    match &host.member_of {
        Some((other, _)) if other == cluster => return Ok(()),
        Some((other, _)) => bail!(
            "{name} belongs to another cluster ({other}); to let it join this one, type there: \
             shoutdctl stop --leave"
        ),
        None => {}
    }
    let arguments = format!("start {advertised} --peer-addresses={address} --token-file=-");
    // On standard input, which no other user can read.
    let said = host.shoutdctl(&arguments, Some(format!("{token}\n").as_bytes())).await?;
    println!("{name}: {}", said.lines().next().unwrap_or_default());
    Ok(())
}

/// A script that root runs, on a host where the user may not be root.
fn sudo(script: &str) -> String {
    let script = quote(Path::new(script));
    format!("if [ \"$(id -u)\" = 0 ]; then sh -c {script}; else sudo -n sh -c {script}; fi")
}

/// A word of a shell's command line.
fn quote(text: &Path) -> String {
    format!("'{}'", text.display().to_string().replace('\'', "'\\''"))
}

/// Runs a script on a host and returns its standard output.
async fn ssh(host: &str, script: &str, input: Option<&[u8]>) -> Result<String> {
    let mut command = Command::new("ssh");
    command.args(["-o", "BatchMode=yes", "-o", &format!("ConnectTimeout={CONNECT_SECONDS}")]);
    command.args(["--", host, script]).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot run ssh: install the OpenSSH client")?;
    let stdin = child.stdin.take();
    let write = async {
        if let Some(mut stdin) = stdin {
            // A host that reads less fails with its own message.
            let _ = stdin.write_all(input.unwrap_or_default()).await;
        }
    };
    let deadline = if input.is_some() { COPY_TIME_MAX } else { COMMAND_TIME_MAX };
    let done = timeout(deadline, async { tokio::join!(write, child.wait_with_output()).1 }).await;
    let output = done.with_context(|| format!("{host} does not answer in time"))??;
    let stderr = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let why = stderr.lines().last().unwrap_or("no error message");
        bail!("{host}: {}", why.strip_prefix("shoutdctl: ").unwrap_or(why));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_cannot_be_an_option_of_ssh() {
        for fit in ["host1", "root@192.0.2.1", "user@fd00::1", "node-1.example.com"] {
            assert_eq!(host(fit).as_deref(), Ok(fit));
        }
        for unfit in ["", "-oProxyCommand=x", "a b", "a;b", "$(x)"] {
            assert!(host(unfit).is_err(), "{unfit}");
        }
    }

    #[test]
    fn a_script_reaches_the_shell_of_root_as_it_is() {
        let script = sudo("echo 'a b' \"$HOME\"; echo \\$x");
        let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        let home = std::env::var("HOME").unwrap_or_default();
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("a b {home}\n$x\n"));
    }

    #[test]
    fn facts_of_a_host_are_read() {
        let own = own_address("192.0.2.9 50000 192.0.2.1 22");
        assert_eq!(own, Some("192.0.2.1".parse().unwrap()));
        assert_eq!(own_address(""), None);
        let member =
            r#"{"membership":{"state":"member"},"cluster":"ab","address":"10.0.0.1:7789"}"#;
        assert_eq!(member_of(member), Some(("ab".to_owned(), "10.0.0.1:7789".to_owned())));
        for none in ["", "{}", r#"{"membership":{"state":"joining"},"cluster":"ab","address":"x"}"#]
        {
            assert_eq!(member_of(none), None, "{none}");
        }
    }
}
