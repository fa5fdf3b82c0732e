//! `shoutdctl support`: the archive has what a report needs, and none of the cluster's secrets.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use shoutd_e2e::{Cluster, Container, Network, SOON};
use shoutd_lab::{Host, Process};

/// Where the archives and their contents are.
const PLACE: &str = "/run/report";

/// What a user has put where the archive may take it.
const PASSWORD: &str = "correct-horse-battery";
const PREPARED: &str = "SHOUT1-00112233445566778899aabbccddeeff-8899aabbccddeeff0011223344556677";

/// The files of an archive by their names in it.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

pub(crate) fn the_archive_has_no_secret(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [host, ..] = &hosts;
    let _foo = Network::create(
        cluster,
        host,
        "foo",
        &["--label", &format!("password={PASSWORD}"), "--opt", "shoutd.names=off"],
    )?;
    let _container = Container::start(host, "foo", &["--env", &format!("PASSWORD={PASSWORD}")])?;
    host.sh(&format!(
        "echo 'a user wrote {PREPARED} and http://me:{PASSWORD}@proxy/' >> /var/log/shoutd.log"
    ))?;
    let secrets = secrets(&hosts)?;
    ensure!(secrets.len() >= 3 * hosts.len(), "only {} secrets", secrets.len());
    ensure_searched(&secrets)?;
    let files = report(host)?;
    for name in [
        "index.txt",
        "log.txt",
        "views/status.json",
        "views/hosts.json",
        "views/events.json",
        "docker/info.json",
        "docker/networks.json",
        "host/nftables.txt",
        "host/version",
        "state/files.txt",
        "state/start.json",
    ] {
        ensure!(files.get(name).is_some_and(|text| !text.is_empty()), "{name} is not in it");
    }
    let has = |words: &str, name: &str| {
        files.iter().any(|(file, text)| file.ends_with(name) && find(text, words.as_bytes()))
    };
    ensure!(has("224.", "/mdb.txt") || has("dev", "/fdb.txt"), "no tables of a segment");
    ensure!(has("identity/key.pem", "state/files.txt"), "the sizes of files are missing");
    ensure_without(&files, &secrets)
}

/// Checks that an archive without the daemon's views says why, and has the rest.
pub(crate) fn ensure_says(files: &Files, words: &str) -> Result<()> {
    let index = files.get("index.txt").context("index.txt")?;
    ensure!(find(index, words.as_bytes()), "{}", String::from_utf8_lossy(index));
    ensure!(files.contains_key("log.txt") && files.contains_key("docker/info.json"), "too little");
    Ok(())
}

/// Writes an archive and returns its files.
fn report(host: &Host) -> Result<Files> {
    let mut writing = begin(host)?;
    let output = writing.wait(SOON)?;
    ensure!(output.success(), "{output}");
    unpack(host)
}

/// Begins to write an archive, in a directory of its own.
pub(crate) fn begin(host: &Host) -> Result<Process> {
    host.sh(&format!("rm -rf {PLACE} && mkdir {PLACE}"))?;
    host.spawn(["sh", "-c", &format!("cd {PLACE} && exec shoutdctl support")])
}

/// The files of the archive, which is removed.
pub(crate) fn unpack(host: &Host) -> Result<Files> {
    let file = host.sh(&format!("ls {PLACE}"))?;
    let path = host.file(&format!("{PLACE}/{}", file.trim()))?;
    let mode = fs::metadata(&path)?.permissions().mode() & 0o777;
    ensure!(mode == 0o600, "{file} has mode {mode:o}");
    host.sh(&format!("cd {PLACE} && mkdir out && tar -xzf *.tar.gz -C out --strip-components=1"))?;
    let mut files = Files::new();
    read(&host.file(&format!("{PLACE}/out"))?, "", &mut files)?;
    host.sh(&format!("rm -r {PLACE}"))?;
    Ok(files)
}

fn read(directory: &Path, prefix: &str, files: &mut Files) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            read(&entry.path(), &format!("{name}/"), files)?;
        } else {
            files.insert(name, fs::read(entry.path())?);
        }
    }
    Ok(())
}

/// Every secret that the hosts have, as octets: the secret of the token, the keys of the hosts, the
/// key that seals the authority's private key; and what a user has put in reach.
fn secrets(hosts: &[Host]) -> Result<Vec<(String, Vec<u8>)>> {
    let mut secrets = vec![
        ("a password".to_owned(), PASSWORD.as_bytes().to_vec()),
        ("a prepared token".to_owned(), decode(PREPARED.rsplit('-').next().context("-")?)?),
    ];
    for host in hosts {
        let text = |file: &str| host.sh(&format!("cat /var/lib/shoutd/{file}"));
        let key = text("identity/key.pem")?;
        let lines: String = key.lines().filter(|line| !line.starts_with("-----")).collect();
        secrets.push((format!("the key of {}", host.name()), from_base64(&lines)?));
        let seal = text("identity/seal.key")?;
        secrets.push((format!("the seal key of {}", host.name()), decode(seal.trim())?));
        if let Ok(token) = text("token") {
            let secret = token.trim().rsplit('-').next().context("a token")?.to_owned();
            secrets.push((format!("the token of {}", host.name()), decode(&secret)?));
        }
        let processes = host.sh("cat /proc/$(pidof shoutd)/environ | tr '\\0' '\\n'")?;
        for variable in processes.lines().filter(|line| line.starts_with("SHOUTD_TOKEN=")) {
            let secret = variable.rsplit('-').next().context("a token")?;
            secrets.push((format!("the environment of {}", host.name()), decode(secret)?));
        }
    }
    Ok(secrets)
}

/// Checks that no file has one of these secrets: as octets, in hexadecimal or in base64.
fn ensure_without(files: &Files, secrets: &[(String, Vec<u8>)]) -> Result<()> {
    for (what, secret) in secrets {
        let hex: String = secret.iter().map(|octet| format!("{octet:02x}")).collect();
        let mut forms = vec![secret.clone(), hex.to_uppercase().into_bytes(), hex.into_bytes()];
        // A part of something that is encoded may begin at any of three places.
        forms.extend((0..3).map(|skipped| to_base64(&secret[skipped..]).into_bytes()));
        for (name, text) in files {
            ensure!(!forms.iter().any(|form| find(text, form)), "{name} has {what}");
            // Lines of base64 are broken after 64 characters.
            let joined: Vec<u8> =
                text.iter().copied().filter(|octet| !octet.is_ascii_whitespace()).collect();
            ensure!(!forms.iter().any(|form| find(&joined, form)), "{name} has {what}");
        }
    }
    Ok(())
}

/// Checks that each secret would be found: as octets, in hexadecimal, and as a part of what is in
/// base64.
fn ensure_searched(secrets: &[(String, Vec<u8>)]) -> Result<()> {
    for (what, secret) in secrets {
        let hex: String = secret.iter().map(|octet| format!("{octet:02X}")).collect();
        let parts =
            (0..3).map(|before| to_base64(&[&vec![7; before], &secret[..], b"xx"].concat()));
        let forms = [secret.clone(), hex.into_bytes()];
        for form in forms.into_iter().chain(parts.map(String::into_bytes)) {
            let planted = Files::from([("log.txt".to_owned(), [b"so ", &form[..]].concat())]);
            ensure!(ensure_without(&planted, secrets).is_err(), "{what} is not searched for");
        }
    }
    Ok(())
}

fn find(text: &[u8], wanted: &[u8]) -> bool {
    text.windows(wanted.len()).any(|window| window == wanted)
}

fn decode(digits: &str) -> Result<Vec<u8>> {
    let octets = (0..digits.len() / 2).map(|index| {
        let pair = digits.get(2 * index..2 * index + 2).context("hexadecimal digits")?;
        Ok(u8::from_str_radix(pair, 16)?)
    });
    octets.collect()
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The whole groups of three octets in base64 (RFC 4648).
fn to_base64(octets: &[u8]) -> String {
    let groups = octets.chunks_exact(3).flat_map(|group| {
        let bits = group.iter().fold(0_usize, |bits, octet| bits << 8 | usize::from(*octet));
        [18, 12, 6, 0].map(|shift| char::from(ALPHABET[(bits >> shift) & 63]))
    });
    groups.collect()
}

fn from_base64(text: &str) -> Result<Vec<u8>> {
    let (mut octets, mut bits, mut count) = (Vec::new(), 0_u32, 0);
    for letter in text.bytes().filter(|letter| *letter != b'=') {
        let value = ALPHABET.iter().position(|known| *known == letter).context("base64")?;
        bits = bits << 6 | u32::try_from(value)?;
        count += 6;
        if count >= 8 {
            count -= 8;
            octets.push(u8::try_from((bits >> count) & 255)?);
        }
    }
    Ok(octets)
}
