//! Random identifiers.

use std::fmt::Write as _;

/// 32 random bytes.
pub(crate) fn random_bytes() -> [u8; 32] {
    let mut bytes = [0; 32];
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("the kernel gives no random numbers: {error}"),
        }
    }
    bytes
}

/// A random number.
pub(crate) fn random_u64() -> u64 {
    let bytes = random_bytes();
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[..8]);
    u64::from_le_bytes(number)
}

/// 64 random hexadecimal digits whose first twelve are not all decimal, so that a short id is never read as a number.
pub(crate) fn new_id() -> String {
    loop {
        let mut id = String::with_capacity(64);
        for byte in random_bytes() {
            // Writing to a string can't fail.
            let _ = write!(id, "{byte:02x}");
        }
        if id[..12].bytes().any(|byte| byte.is_ascii_lowercase()) {
            return id;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::new_id;

    #[test]
    fn ids_are_hexadecimal() {
        let id = new_id();
        assert_eq!(id.len(), 64);
        assert!(id.bytes().all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase()));
        assert_ne!(id, new_id());
    }
}
