//! The program begins where `palan_linux::entry` says. A linker that does not know the name only warns, and the program
//! works: it would just start twice.

#[test]
#[cfg(target_arch = "x86_64")]
fn the_program_begins_before_libc() {
    let elf = std::fs::read(env!("CARGO_BIN_EXE_palan")).unwrap();
    let word = |at: usize| u64::from_le_bytes(elf[at..at + 8].try_into().unwrap());
    let half = |at: usize| u16::from_le_bytes(elf[at..at + 2].try_into().unwrap());
    // ELF-64: e_entry at 24, e_phoff at 32, e_phentsize at 54, e_phnum at 56; p_offset, p_vaddr and p_filesz of a segment at 8, 16, 32.
    let (entry, table) = (word(24), usize::try_from(word(32)).unwrap());
    let begins = (0..usize::from(half(56))).find_map(|index| {
        let segment = table + index * usize::from(half(54));
        let loaded = elf[segment..segment + 4] == 1u32.to_le_bytes();
        let distance = entry.checked_sub(word(segment + 16))?;
        (loaded && distance < word(segment + 32))
            .then(|| usize::try_from(word(segment + 8) + distance).unwrap())
    });
    // mov r12, rsp; mov r15, rdx
    assert_eq!(elf[begins.unwrap()..][..6], [0x49, 0x89, 0xe4, 0x49, 0x89, 0xd7]);
}
