//! Words of four bytes in packets, which lie at any even address.
//!
//! The compiler for BPF believes that a word must lie at a multiple of four and makes two loads, a shift and an *or* of one that may not (decision
//! 0024). The machines that run the programs and their kernels' verifiers know no such rule for packets and map values (x86-64, arm64:
//! `HAVE_EFFICIENT_UNALIGNED_ACCESS`), so on that target the one instruction is written down. Must not: be used on the stack, where the verifier
//! does insist.

/// The word at `OFFSET` of a value, as memory has it.
///
/// # Safety
/// The value has these bytes, and `at` may be read there.
#[inline(always)]
pub unsafe fn read<T, const OFFSET: usize>(at: *const T) -> u32 {
    const { assert!(OFFSET + 4 <= size_of::<T>()) };
    #[cfg(target_arch = "bpf")]
    // SAFETY: reads what the caller vouches for, and changes nothing.
    unsafe {
        let word;
        core::arch::asm!("{word} = *(u32 *)({at} + {offset})", word = out(wreg) word, at = in(reg) at, offset = const OFFSET,
            options(pure, readonly, nostack, preserves_flags));
        word
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: as the caller vouches.
    unsafe {
        at.byte_add(OFFSET).cast::<u32>().read_unaligned()
    }
}

/// The word at `OFFSET` of a value in a whole register: for fields of a context which the verifier takes for pointers. As a word the compiler may put it
/// aside by four bytes, and it is a number from then on.
///
/// # Safety
/// As of [`read`].
#[inline(always)]
pub unsafe fn wide<T, const OFFSET: usize>(at: *const T) -> usize {
    const { assert!(OFFSET + 4 <= size_of::<T>()) };
    #[cfg(target_arch = "bpf")]
    // SAFETY: reads what the caller vouches for, and changes nothing.
    unsafe {
        let wide;
        core::arch::asm!("{wide} = *(u32 *)({at} + {offset})", wide = out(reg) wide, at = in(reg) at, offset = const OFFSET,
            options(pure, readonly, nostack, preserves_flags));
        wide
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: as the caller vouches.
    unsafe {
        read::<T, OFFSET>(at) as usize
    }
}

/// Writes the word at `OFFSET` of a value.
///
/// # Safety
/// The value has these bytes, and `at` may be written there.
#[inline(always)]
pub unsafe fn write<T, const OFFSET: usize>(at: *mut T, word: u32) {
    const { assert!(OFFSET + 4 <= size_of::<T>()) };
    #[cfg(target_arch = "bpf")]
    // SAFETY: writes what the caller vouches for.
    unsafe {
        core::arch::asm!("*(u32 *)({at} + {offset}) = {word}", word = in(wreg) word, at = in(reg) at, offset = const OFFSET,
            options(nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: as the caller vouches.
    unsafe {
        at.byte_add(OFFSET).cast::<u32>().write_unaligned(word);
    }
}
