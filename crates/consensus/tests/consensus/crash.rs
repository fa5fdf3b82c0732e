//! All hosts are killed at once, at any instant. Nothing that a host acknowledged is lost, and it
//! has it at once when it starts.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::common::{Node, Place, SOON, founded, stop_all};

/// Environment variable with the directory, for the process to be killed: the test runs itself.
const DIRECTORY: &str = "SHOUTD_TEST_CRASH_DIRECTORY";
const SUBNET: [u8; 2] = [213, 77];
const HOSTS: usize = 3;

fn places(directory: &Path) -> Vec<Place> {
    (1..=HOSTS).map(|number| Place::at(directory, SUBNET, u8::try_from(number).unwrap())).collect()
}

/// Founds or restarts the cluster. Then its hosts create networks in turn, and print each one,
/// until the process is killed.
async fn run(directory: &Path) {
    let first_number = u16::try_from(std::process::id() % 30_000).unwrap() * 2;
    let mut nodes: Vec<Node> = Vec::new();
    for place in places(directory) {
        nodes.push(place.start().await);
    }
    for (index, node) in nodes.iter().enumerate() {
        if node.state().hosts.contains_key(&node.host()) {
            continue;
        }
        if index == 0 {
            node.consensus.found(founded(), SOON).await.unwrap();
        } else {
            node.consensus.join(&[nodes[0].address], SOON).await.unwrap();
        }
    }
    for number in first_number.. {
        let index = usize::from(number) % HOSTS;
        nodes[index].create(number).await;
        println!("made {index} {number}");
        std::io::stdout().flush().unwrap();
    }
}

fn spawn(directory: &Path) -> Child {
    let this_test = ["--exact", "crash::nothing_is_lost_when_all_are_killed", "--nocapture"];
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(this_test).env(DIRECTORY, directory).stdout(Stdio::piped()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// Lets the hosts run until `made` networks exist, and then a little longer, and kills them.
/// Returns the networks with their hosts.
fn run_and_kill(directory: &Path, made: usize, longer: Duration) -> Vec<(usize, u16)> {
    let mut child = spawn(directory);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut seen: Vec<_> =
        lines.by_ref().filter_map(|line| made_network(&line)).take(made).collect();
    std::thread::sleep(longer);
    child.kill().unwrap();
    child.wait().unwrap();
    seen.extend(lines.filter_map(|line| made_network(&line)));
    seen
}

/// The network that a line of the process tells of, with its host.
fn made_network(line: &str) -> Option<(usize, u16)> {
    let (index, number) = line.strip_prefix("made ")?.split_once(' ')?;
    Some((index.parse().unwrap(), number.parse().unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_all_are_killed() {
    if let Some(directory) = env::var_os(DIRECTORY) {
        return run(Path::new(&directory)).await;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut made: Vec<(usize, u16)> = Vec::new();
    for round in 0..12_u64 {
        // First during founding and joining, later in operation.
        let (count, longer) =
            if round < 6 { (0, 10 + 30 * round) } else { (1 + 3 * round, 7 * round) };
        let (path, longer) = (directory.path().to_owned(), Duration::from_millis(longer));
        let killing = tokio::task::spawn_blocking(move || {
            run_and_kill(&path, usize::try_from(count).unwrap(), longer)
        });
        made.extend(timeout(3 * SOON, killing).await.unwrap().unwrap());
        let mut nodes = Vec::new();
        for (place_index, place) in places(directory.path()).iter().enumerate() {
            // One by one, so that none can get it from another.
            let node = place.start().await;
            for (index, number) in &made {
                assert!(
                    place_index != *index || node.has(*number),
                    "round {round}: {number} is lost"
                );
            }
            nodes.push(node);
        }
        if !made.is_empty() {
            nodes[usize::try_from(round).unwrap() % HOSTS]
                .create(60_000 + u16::try_from(round).unwrap())
                .await;
            let everywhere = async {
                while !nodes.iter().all(|node| made.iter().all(|(_, made)| node.has(*made))) {
                    sleep(Duration::from_millis(10)).await;
                }
            };
            timeout(SOON, everywhere).await.unwrap();
        }
        stop_all(nodes).await;
    }
    assert!(made.len() > 100, "only {} networks were made", made.len());
}
