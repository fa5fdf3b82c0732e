//! The terminal's screen while `shoutdctl top` has it.

use std::io::{self, Stdout, Write, stdout};

use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::style::Print;
use crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode,
    enable_raw_mode, size,
};
use crossterm::{execute, queue};

use super::state::State;

/// Gives the terminal back when it is dropped.
#[derive(Debug)]
pub struct Screen {
    out: Stdout,
}

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// The terminal does not allow it.
    pub fn take() -> io::Result<Self> {
        enable_raw_mode()?;
        let mut screen = Self { out: stdout() };
        execute!(screen.out, EnterAlternateScreen, Hide)?;
        Ok(screen)
    }

    /// Draws the state. Lines that do not fit are left out.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn draw(&mut self, state: &State) -> io::Result<()> {
        let (width, height) = size()?;
        let lines = state.lines(width.into(), height.into());
        for (row, line) in (0..height).zip(lines) {
            queue!(self.out, MoveTo(0, row), Print(line), Clear(ClearType::UntilNewLine))?;
        }
        queue!(self.out, Clear(ClearType::FromCursorDown))?;
        self.out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = execute!(self.out, Show, LeaveAlternateScreen);
        let _ = disable_raw_mode();
    }
}
