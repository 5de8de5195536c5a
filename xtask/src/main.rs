//! Development tasks: `cargo xtask TASK`.

mod packages;
mod process;
mod random;
mod task_bench;
mod task_chaos;
mod task_demo;
mod task_dist;
mod task_dockerfiles;
mod task_powercut;
mod task_prepush;
mod task_test;
mod task_tidy;
mod task_vm;

use std::process::ExitCode;

/// What a task ends with when it fails: a sentence for the person at the terminal.
type Failure = Box<dyn std::error::Error + Send + Sync>;

const USAGE: &str = "\
Usage: cargo xtask TASK

  demo              build palan, start it on a private root, run two images made here, fetch a published port
  test [FILTER]     install what the tests need from Debian, run everything, end with the counts
  prepush           what CI runs: formatting, clippy, tidy, test
  bench [SUBJECT]   our figures beside those of every installed peer and the kernel's floor, as ratios
  tidy              the repository's own rules: module docs, crate edges, licences, unsafe
  dockerfiles [PROJECT...]
                    build real projects by three clients, each on an empty store; the images must be equal and must work
  dist              one static, stripped binary with the supervisor embedded: target/dist/palan
  chaos             kill the daemon again and again while clients do what they like; nothing is lost and nothing is left
  powercut          cut the power of a virtual machine whose daemon is at work, again and again; images are whole or absent
  vm -- COMMAND     run COMMAND in a virtual machine with cgroup v2 and AppArmor, and end with its exit code
";

#[expect(clippy::print_stdout, reason = "tasks talk to the person at the terminal")]
fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let task = arguments.next().unwrap_or_default();
    let rest: Vec<String> = arguments.collect();
    let result = match task.as_str() {
        "demo" => task_demo::run(),
        "test" => task_test::run(&rest),
        "prepush" => task_prepush::run(),
        "bench" => task_bench::run(&rest),
        "tidy" => task_tidy::run(),
        "dist" => task_dist::run().map(|path| println!("{}", path.display())),
        "dockerfiles" => task_dockerfiles::run(&rest),
        "vm" => return task_vm::run(&rest),
        task_vm::GUEST => task_vm::guest(),
        "chaos" => task_chaos::run(&rest),
        task_chaos::WORK => task_chaos::work(&rest),
        "powercut" => task_powercut::run(&rest),
        task_powercut::GUEST => task_powercut::guest(&rest),
        "" | "help" | "--help" | "-h" => {
            print!("{USAGE}");
            Ok(())
        }
        other => Err(format!("no task is called {other:?}\n\n{USAGE}").into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            report(&failure);
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "tasks talk to the person at the terminal")]
fn report(failure: &Failure) {
    eprintln!("xtask: {failure}");
}
