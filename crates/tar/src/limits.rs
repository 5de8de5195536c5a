//! How much an image may ask for before it is refused.

/// Limits on one layer. The defaults let every sensible image pass and stop what only exists to do harm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a layer's tar, not compressed.
    pub unpacked_bytes: u64,
    /// Entries of a layer.
    pub entries: u64,
    /// How many times larger than its compressed form a tar may be, once it is over `ratio_threshold`.
    pub ratio: u64,
    /// Below this many unpacked bytes no ratio is looked at: small layers of zeros compress very well.
    pub ratio_threshold: u64,
    /// Bytes of a path or link target (the kernel's limit is 4,095).
    pub path_bytes: usize,
    /// Components of a path.
    pub depth: usize,
    /// Bytes that may be needed in memory to remember directories until their times are set.
    pub remembered_bytes: usize,
    /// Bytes of one extended header (PAX records, a long name).
    pub header_bytes: u64,
    /// Segments of a sparse file.
    pub sparse_segments: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            unpacked_bytes: 1 << 40,
            entries: 10_000_000,
            ratio: 200,
            ratio_threshold: 4 << 30,
            path_bytes: 4095,
            depth: 1024,
            remembered_bytes: 256 << 20,
            header_bytes: 1 << 20,
            sparse_segments: 1 << 20,
        }
    }
}
