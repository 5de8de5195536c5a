//! Runs real containers made from a static busybox. Needs root; says so and passes otherwise.

mod cases;
mod support;

fn main() {
    support::run(cases::ALL);
}
