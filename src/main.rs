//! The `siltstone` command: arguments to a call of the library, its error to an exit code.

use clap::Parser;
use siltstone::cli::{self, Cli, Command};
use siltstone::commands;
use siltstone::exit::{Exit, Failure};
use siltstone::telemetry::logs;
use siltstone::telemetry::progress::Progress;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&Failure::new(Exit::Failed, format!("start the runtime: {error}"))),
    };
    let result = runtime.block_on(run(&cli));
    // A blocking call that hangs (a broker that does not answer) must not keep the process alive.
    runtime.shutdown_background();
    match result {
        Ok(exit) => ExitCode::from(exit as u8),
        Err(failure) => fail(&failure),
    }
}

fn fail(failure: &Failure) -> ExitCode {
    // Nobody reads standard error any more: the code still tells.
    drop(writeln!(io::stderr(), "siltstone: {}", failure.message));
    ExitCode::from(failure.exit as u8)
}

async fn run(cli: &Cli) -> Result<Exit, Failure> {
    let terminal = io::stderr().is_terminal();
    let live = terminal
        && matches!(cli.command, Command::Run(_) | Command::Demo(_) | Command::Backfill(_) | Command::Restore(_));
    let progress = live.then(Progress::default);
    let (format, level) = match &cli.command {
        Command::Run(args) => (args.log.log_format, args.log.log_level.as_str()),
        Command::Backfill(args) => (args.log.log_format, args.log.log_level.as_str()),
        Command::Restore(args) => (args.log.log_format, args.log.log_level.as_str()),
        _ => (cli::LogFormat::Text, "warn"),
    };
    let format = match format {
        cli::LogFormat::Text => logs::LogFormat::Text,
        cli::LogFormat::Json => logs::LogFormat::Json,
    };
    let installed = match &progress {
        Some(progress) => logs::install(format, level, terminal, progress.clone()),
        None => logs::install(format, level, terminal, io::stderr),
    };
    installed.map_err(|reason| Failure::new(Exit::Config, reason))?;
    let mut out = io::stdout().lock();
    match &cli.command {
        Command::Run(args) => commands::run::run(args, commands::load(&args.config.config)?, progress).await,
        Command::Check(args) => commands::check::check(args, &commands::load(&args.config.config)?, &mut out).await,
        Command::Preview(args) => {
            commands::preview::preview(args, &commands::load(&args.config.config)?, &mut out).await
        }
        Command::Inspect(args) => {
            commands::inspect::inspect(args, &commands::load(&args.config.config)?, &mut out).await
        }
        Command::Verify(args) => {
            let config = commands::load(&args.config.config)?;
            // Not the locked one: what verifies may move from thread to thread.
            drop(out);
            commands::verify::run(args, &config, &mut io::stdout()).await
        }
        Command::Fold(args) => {
            let config = commands::load(&args.config.config)?;
            // Not the locked one, as above.
            drop(out);
            commands::fold::fold(args, &config, &mut io::stdout()).await
        }
        Command::Status(args) => commands::status::status(args, &commands::load(&args.config.config)?, &mut out).await,
        Command::Ls(args) => commands::ls::ls(args, &commands::load(&args.part.config.config)?, &mut out).await,
        Command::Cat(args) => {
            let config = commands::load(&args.part.config.config)?;
            commands::cat::cat(args, &config, &mut out, &mut io::stderr()).await
        }
        Command::Find(args) => commands::find::find(args, &commands::load(&args.config.config)?, &mut out).await,
        Command::Ddl(args) => commands::ddl::ddl(args, &commands::load(&args.config.config)?, &mut out).await,
        Command::DeadLetters(command) => {
            let config = commands::load(&command.config().config)?;
            commands::dead_letters::dead_letters(command, &config, &mut out).await
        }
        Command::Backfill(args) => {
            commands::backfill::backfill(args, &commands::load(&args.config.config)?, progress, &mut out).await
        }
        Command::Restore(args) => {
            commands::restore::restore(args, &commands::load(&args.part.config.config)?, progress, &mut out).await
        }
        Command::Compact(args) => {
            commands::compact::compact(args, &commands::load(&args.config.config)?, &mut out).await
        }
        Command::Demo(args) => commands::demo::demo(args, progress, &mut out).await,
        Command::Help(args) => {
            let text = commands::help::help(args.topic.as_deref())?;
            out.write_all(text.as_bytes()).map_err(|error| Failure::new(Exit::Failed, format!("write: {error}")))?;
            Ok(Exit::Done)
        }
    }
}
