//! A container runs, sees what it should, and its end is seen.

use crate::support::Sandbox;

pub(crate) fn runs_to_its_exit_code() {
    assert_eq!(Sandbox::new(&["true"]).output(), "");
    let (code, output) = Sandbox::new(&["sh", "-c", "echo hello; exit 7"]).run().unwrap();
    assert_eq!((code, output.as_str()), (7, "hello\n"));
    let (code, _) = Sandbox::new(&["sh", "-c", "kill -9 $$"]).run().unwrap();
    // Process 1 ignores signals without a handler, even its own SIGKILL.
    assert_eq!(code, 0);
}

pub(crate) fn looks_like_a_container() {
    let script = "echo $$; hostname; id; pwd; ls -l /dev; ls /proc/self/fd; cat /proc/self/status | grep Cap; \
                  cat /proc/self/mountinfo; cat /proc/self/cgroup; ls /sys/fs/cgroup; env";
    let output = Sandbox::new(&["sh", "-c", script]).output();
    println!("{output}");
}

pub(crate) fn overlay_root() {
    let mut sandbox = Sandbox::new(&["sh", "-c", "echo x > /new; cat /new"]);
    sandbox.overlay = true;
    assert_eq!(sandbox.output(), "x\n");
    assert!(sandbox.directory.path().join("upper/new").exists());
    assert!(!sandbox.rootfs().join("new").exists());
}
