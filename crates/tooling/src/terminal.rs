//! The output of the commands.

use std::io::{self, IsTerminal, Write};

use parking_lot::Mutex;

/// Prints output that comes in pieces as whole lines, each with a host's name before it.
#[derive(Debug)]
pub struct HostOutput {
    host: String,
    begun: Mutex<String>,
}

impl HostOutput {
    /// Output of this host.
    pub fn of(host: &str) -> Self {
        Self { host: host.to_owned(), begun: Mutex::new(String::new()) }
    }

    /// Prints the lines that this piece completes, and keeps the rest.
    pub fn show(&self, piece: &str) {
        let mut begun = self.begun.lock();
        begun.push_str(piece);
        while let Some(end) = begun.find('\n') {
            let line: String = begun.drain(..=end).collect();
            print(&format!("{}| {}", self.host, line.trim_end()));
        }
    }
}

/// Shows a command that is run on a host.
pub fn show_command(host: &str, command: &str) {
    print(&emphasized(&format!("{host}$ {command}")));
}

/// Shows progress.
pub fn show_progress(what: &str) {
    print(&format!("-- {what}"));
}

/// Shows a program's output.
pub fn show_output(text: &str) {
    print(text.trim_end());
}

/// Shows the result.
pub fn show_verdict(verdict: &str) {
    print(&emphasized(verdict));
}

/// Prints an error. If the terminal is gone, `eprintln` would panic.
pub fn complain(what: &str) {
    _ = writeln!(io::stderr(), "{what}");
}

fn emphasized(text: &str) -> String {
    if io::stdout().is_terminal() { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
}

/// Prints a line at once. If the output is closed, the work goes on all the same.
fn print(line: &str) {
    let mut output = io::stdout().lock();
    _ = writeln!(output, "{line}").and_then(|()| output.flush());
}
