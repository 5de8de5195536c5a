//! Exec sessions.

use palan_docker_api::types as wire;
use palan_engine::container::{ExecDetails, ExecSpec};

pub(crate) fn spec(request: wire::ExecCreateRequest) -> ExecSpec {
    ExecSpec {
        attach_stdin: request.attach_stdin,
        attach_stdout: request.attach_stdout,
        attach_stderr: request.attach_stderr,
        tty: request.tty,
        console_size: request.console_size.and_then(console_size),
        detach_keys: Some(request.detach_keys).filter(|keys| !keys.is_empty()),
        env: request.env,
        cmd: request.cmd,
        privileged: request.privileged,
        user: request.user,
        working_dir: request.working_dir,
    }
}

/// Height and width; zeros say nothing.
pub(crate) fn console_size([height, width]: [u32; 2]) -> Option<(u16, u16)> {
    let size = (u16::try_from(height).ok()?, u16::try_from(width).ok()?);
    (size != (0, 0)).then_some(size)
}

/// `GET /exec/{id}/json`.
pub(crate) fn inspect(details: ExecDetails) -> wire::ExecInspect {
    let mut words = details.spec.cmd.into_iter();
    wire::ExecInspect {
        id: details.id,
        running: details.running,
        exit_code: details.exit_code.map(i64::from),
        process_config: wire::ExecProcessConfig {
            tty: details.spec.tty,
            entrypoint: words.next().unwrap_or_default(),
            arguments: words.collect(),
            privileged: Some(details.spec.privileged),
            user: details.spec.user,
        },
        open_stdin: details.open_stdin,
        open_stderr: details.open_stderr,
        open_stdout: details.open_stdout,
        can_remove: details.can_remove,
        container_id: details.container_id,
        detach_keys: Some(String::new()),
        pid: details.pid.into(),
    }
}
