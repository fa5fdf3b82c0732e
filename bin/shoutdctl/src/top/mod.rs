//! `shoutdctl top`: the rates of multicast, live.

mod screen;
mod state;

use std::io::{IsTerminal, stdin, stdout};
use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};
use crossterm::event::{Event, EventStream};
use futures::StreamExt;
use shoutd_cli::Directories;
use shoutd_core::rates::{AskTop, Top as Rates};
use tokio::signal::unix::{SignalKind, signal};

use self::screen::Screen;
use self::state::{After, State};
use crate::{control, waiting};

/// The width of the table where there is no terminal.
const WIDTH: usize = 100;

/// How long a message about a failed request stays until the next one.
const RETRY: Duration = Duration::from_secs(1);

/// Show who sends how much multicast to whom, live
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  shoutdctl top
  shoutdctl top --network foo --sort copies
  shoutdctl top --once --json

Keys: p, b, c, r sort by packets, bits, copies, receivers; n, g, s by network, group, sender; / \
                        filters, Esc ends the filter; space pauses; q quits.

COPIES are what hosts send to other hosts; FLOODED is what they would send if they sent each \
                        packet to every host that has the network. Rates are per second. A ~ marks \
                        rates that are estimated, as there were too many packets to read them all.

Exit codes: 0 if it is done, 1 if it failed, 2 for a wrong command line.")]
pub struct Top {
    /// Only this network (name or id)
    #[arg(long, value_name = "NETWORK")]
    network: Option<String>,
    /// The order at the beginning
    #[arg(long, value_enum, default_value_t = Sort::Packets)]
    sort: Sort,
    /// Measure for one second, print, and end; so it does without a terminal
    #[arg(long)]
    once: bool,
    /// Print JSON once
    #[arg(long)]
    json: bool,
}

/// The column by which rows are sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Sort {
    /// Packets, the most first
    Packets,
    /// Bits, the most first
    Bits,
    /// Copies to other hosts, the most first
    Copies,
    /// Receivers, the most first
    Receivers,
    /// Name of the network
    Network,
    /// Group
    Group,
    /// Name of the sender
    Sender,
}

impl Top {
    /// Measures again and again until the user quits, or once.
    ///
    /// # Errors
    /// The daemon does not answer, the network does not exist, or the terminal fails.
    pub async fn run(self, directories: &Directories) -> Result<()> {
        let asked = AskTop { network: self.network.clone(), milliseconds: 1000 };
        let has_terminal = stdin().is_terminal() && stdout().is_terminal();
        if self.json {
            let rates = measure(directories, &asked).await?;
            println!("{}", serde_json::to_string_pretty(&rates)?);
            return Ok(());
        }
        let mut state = State::new(self.sort);
        // Also so that a wrong question is answered before the screen is taken.
        state.rates = measure(directories, &asked).await?;
        if self.once || !has_terminal {
            for line in state.table(WIDTH) {
                println!("{line}");
            }
            return Ok(());
        }
        waiting::hide();
        live(directories, &asked, state).await
    }
}

async fn measure(directories: &Directories, asked: &AskTop) -> Result<Rates> {
    Ok(control::post(directories, "/v1/top", asked).await?)
}

async fn live(directories: &Directories, asked: &AskTop, mut state: State) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut screen = Screen::take()?;
    let mut keys = EventStream::new();
    loop {
        // The question goes on while keys are handled.
        let question = async {
            let answer = measure(directories, asked).await;
            if answer.is_err() {
                tokio::time::sleep(RETRY).await;
            }
            answer
        };
        tokio::pin!(question);
        loop {
            screen.draw(&state)?;
            tokio::select! {
                answer = &mut question => {
                    state.update(answer.map_err(|error| format!("{error:#}")));
                    break;
                }
                _ = terminate.recv() => return Ok(()),
                event = keys.next() => match event {
                    Some(Ok(Event::Key(key))) if key.is_press() => {
                        if state.press(key.code, key.modifiers) == After::Quit {
                            return Ok(());
                        }
                    }
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(error.into()),
                    None => return Ok(()),
                },
            }
        }
    }
}
