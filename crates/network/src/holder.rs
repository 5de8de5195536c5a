//! Which process has a port: looked up only for the text of an error.

use std::path::Path;

use crate::record::Protocol;

/// `nginx (process 123)`; `None` if it can't be found, because it belongs to another namespace of processes, say.
pub(crate) fn find(protocol: Protocol, port: u16) -> Option<String> {
    let tables: &[&str] = match protocol {
        Protocol::Tcp => &["tcp", "tcp6"],
        Protocol::Udp => &["udp", "udp6"],
        Protocol::Sctp => return None,
    };
    let inode = tables.iter().find_map(|table| {
        let path = format!("/proc/thread-self/net/{table}");
        inode_of(&palan_stdx::fs::read_to_string(Path::new(&path)).ok()?, port)
    })?;
    let wanted = format!("socket:[{inode}]");
    let processes = palan_stdx::fs::read_dir(Path::new("/proc")).ok()?;
    processes.iter().find_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        let descriptors = palan_stdx::fs::read_dir(&process.path().join("fd")).ok()?;
        let has = descriptors.iter().any(|descriptor| {
            let target = rustix::fs::readlink(descriptor.path(), Vec::new());
            target.is_ok_and(|target| target.to_bytes() == wanted.as_bytes())
        });
        let name =
            has.then(|| palan_stdx::fs::read_to_string(&process.path().join("comm")).unwrap_or_default())?;
        Some(format!("{} (process {pid})", name.trim_end()))
    })
}

/// The socket that is bound to the port, in the kernel's table of one protocol: `sl local_address … inode`.
fn inode_of(table: &str, port: u16) -> Option<u64> {
    const INODE: usize = 9;
    let wanted = format!(":{port:04X}");
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace();
        let local = fields.nth(1)?;
        let inode = fields.nth(INODE - 2)?.parse().ok()?;
        (local.ends_with(&wanted) && inode != 0).then_some(inode)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_table_is_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1 0\n";
        assert_eq!(inode_of(table, 8080), Some(4242));
        assert_eq!(inode_of(table, 80), None);
        assert_eq!(inode_of("nonsense\nx\n", 80), None);
    }

    #[test]
    fn a_port_of_our_own_is_found() {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let found = find(Protocol::Tcp, listener.local_addr().unwrap().port()).unwrap();
        assert!(found.ends_with(&format!("(process {})", std::process::id())), "{found}");
    }
}
