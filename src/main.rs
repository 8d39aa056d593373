//! Thin binary: everything lives in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    howdah::app::cli::main()
}
