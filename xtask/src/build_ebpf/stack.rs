//! How much stack the deepest chain of calls of each program needs, counted as the oldest kernel that we support counts.
//!
//! 6.1 rounds each frame up to 32 bytes, newer kernels to 16: a program that loads on the machine it is built on may be refused there. The verifier's word is
//! had by `cargo xtask verify`; this one costs nothing and names the chain. Must not: be kinder than the verifier.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use object::read::elf::{ElfFile64, FileHeader};
use object::{Object, ObjectSection, ObjectSymbol, RelocationTarget, SectionKind, SymbolKind};

/// Of a chain of calls (MAX_BPF_STACK in linux/filter.h).
const LIMIT: u32 = 512;
/// What a frame is rounded up to, and what one counts that uses none (check_max_stack_depth in kernel/bpf/verifier.c, 6.1).
const STEP: u32 = 32;

// Opcodes of linux/bpf.h and linux/bpf_common.h.
const CALL: u8 = 0x85;
const LOAD_64: u8 = 0x18;
const MOVE: u8 = 0xbf;
const ADD_CONSTANT: u8 = 0x07;
const CLASS_LOAD: u8 = 1;
const CLASS_STORE: [u8; 2] = [2, 3];
/// The frame pointer, r10.
const FRAME: u8 = 10;
/// Source register of a call: of a function of the object.
const TO_FUNCTION: u8 = 1;
/// The helper that goes on in another program (`bpf_tail_call`), which has a stack of its own.
const TAIL_CALL: i32 = 12;

/// A function by section and offset.
type Place = (usize, u64);

#[derive(Debug)]
struct Function {
    name: String,
    depth: u32,
    calls: BTreeSet<Place>,
    /// It goes on in another program.
    jumps: bool,
}

/// The deepest chain of one program.
#[derive(Debug, PartialEq, Eq)]
pub struct Chain {
    pub bytes: u32,
    /// Functions with their own stack, outermost first.
    pub calls: Vec<(String, u32)>,
}

/// Fails where a chain is too deep, naming it.
pub fn check(object: &[u8]) -> Result<()> {
    let deepest = chains(object)?;
    let too_deep: Vec<String> = deepest.iter().filter(|chain| chain.bytes > LIMIT).map(Chain::told).collect();
    if too_deep.is_empty() {
        return no_jumps_below(object);
    }
    bail!(
        "too much stack for Linux 6.1, which has {LIMIT} bytes for a chain of calls, each frame rounded up to {STEP}:\n  {}\nKeep less over calls, or make \
         the chain shorter (docs/decisions/0006-real-calls.md)",
        too_deep.join("\n  ")
    )
}

/// Fails where a called function goes on in another program: chains that may end so have 256 bytes only, and pay at each call (check_max_stack_depth).
fn no_jumps_below(object: &[u8]) -> Result<()> {
    let file = ElfFile64::<object::Endianness>::parse(object).context("reading the object")?;
    let functions = functions(&file)?;
    let called: BTreeSet<&Place> = functions.values().flat_map(|function| &function.calls).collect();
    let jumps = called.iter().filter_map(|place| functions.get(place)).filter(|function| function.jumps);
    match jumps.map(|function| function.name.as_str()).collect::<Vec<_>>()[..] {
        [] => Ok(()),
        ref names => bail!(
            "tail calls in functions that are called: {}. Make them in the hook itself (docs/decisions/0033-programs-behind-hooks.md)",
            names.join(", ")
        ),
    }
}

/// Of each program the deepest chain.
pub fn chains(object: &[u8]) -> Result<Vec<Chain>> {
    let file = ElfFile64::<object::Endianness>::parse(object).context("reading the object")?;
    let functions = functions(&file)?;
    let entries = functions.keys().filter(|(section, _)| {
        // Functions that are called stand in .text, programs in sections that say their kind.
        file.section_by_index(object::SectionIndex(*section)).is_ok_and(|section| section.name() != Ok(".text"))
    });
    Ok(entries.map(|entry| deepest(&functions, *entry)).collect())
}

impl Chain {
    fn told(&self) -> String {
        let calls: Vec<String> = self.calls.iter().map(|(name, depth)| format!("{name} ({depth})")).collect();
        format!("{} bytes: {}", self.bytes, calls.join(" → "))
    }
}

fn deepest(functions: &BTreeMap<Place, Function>, at: Place) -> Chain {
    let Some(function) = functions.get(&at) else {
        return Chain { bytes: STEP, calls: vec![("a function that the object does not have".into(), 0)] };
    };
    // The verifier takes no recursion, and neither does the compiler's code contain any.
    let below = function.calls.iter().map(|call| deepest(functions, *call)).max_by_key(|chain| chain.bytes);
    let below = below.unwrap_or(Chain { bytes: 0, calls: Vec::new() });
    let mut calls = vec![(function.name.clone(), function.depth)];
    calls.extend(below.calls);
    Chain { bytes: function.depth.max(1).next_multiple_of(STEP) + below.bytes, calls }
}

fn functions<H: FileHeader<Endian = object::Endianness>>(
    file: &object::read::elf::ElfFile<'_, H>,
) -> Result<BTreeMap<Place, Function>> {
    let mut functions = BTreeMap::new();
    for section in file.sections().filter(|section| section.kind() == SectionKind::Text) {
        let index = section.index().0;
        let code = section.data().context("reading a section")?;
        // Calls of functions elsewhere, by the offset of the instruction.
        let mut elsewhere: BTreeMap<u64, Place> = BTreeMap::new();
        for (offset, relocation) in section.relocations() {
            let RelocationTarget::Symbol(symbol) = relocation.target() else { continue };
            let symbol = file.symbol_by_index(symbol).context("reading a relocation")?;
            let Some(target) = symbol.section_index() else { continue };
            let at = usize::try_from(offset)
                .ok()
                .and_then(|at| code.get(at..at + 8))
                .context("a relocation past the code")?;
            // Of a section's symbol the constant says which instruction, less one.
            let more = match symbol.kind() {
                SymbolKind::Section => (i64::from(constant(at)) + 1) * 8,
                _ => 0,
            };
            elsewhere.insert(offset, (target.0, symbol.address().wrapping_add_signed(more)));
        }
        for symbol in
            file.symbols().filter(|it| it.kind() == SymbolKind::Text && it.section_index() == Some(section.index()))
        {
            let (from, size) = (symbol.address(), symbol.size());
            let body = code.get(from as usize..(from + size) as usize).context("a function past its section")?;
            let name = plain(symbol.name().unwrap_or("?"));
            functions.insert((index, from), read(name, body, (index, from), &elsewhere));
        }
    }
    Ok(functions)
}

/// A function as its code says.
fn read(name: String, body: &[u8], (section, from): Place, elsewhere: &BTreeMap<u64, Place>) -> Function {
    let (mut depth, mut calls, mut jumps) = (0u32, BTreeSet::new(), false);
    let mut reaches = |offset: i32| depth = depth.max(offset.min(0).unsigned_abs());
    let mut of_frame = None;
    let mut instructions = body.chunks_exact(8).enumerate();
    while let Some((number, instruction)) = instructions.next() {
        let (code, destination, source) = (instruction[0], instruction[1] & 15, instruction[1] >> 4);
        let offset = i32::from(i16::from_le_bytes([instruction[2], instruction[3]]));
        let at = from + number as u64 * 8;
        match code {
            CALL if source == TO_FUNCTION => {
                let here = (section, (at + 8).wrapping_add_signed(i64::from(constant(instruction)) * 8));
                calls.insert(elsewhere.get(&at).copied().unwrap_or(here));
            }
            CALL if source == 0 && constant(instruction) == TAIL_CALL => jumps = true,
            // The address of something on the stack: r10 is copied, then moved.
            ADD_CONSTANT if of_frame == Some(destination) => reaches(constant(instruction)),
            _ if code & 7 == CLASS_LOAD && source == FRAME => reaches(offset),
            _ if CLASS_STORE.contains(&(code & 7)) && destination == FRAME => reaches(offset),
            _ => {}
        }
        of_frame = (code == MOVE && source == FRAME).then_some(destination);
        if code == LOAD_64 {
            instructions.next(); // its second half
        }
    }
    Function { name, depth, calls, jumps }
}

fn constant(instruction: &[u8]) -> i32 {
    instruction.get(4..8).and_then(|bytes| bytes.try_into().ok()).map_or(0, i32::from_le_bytes)
}

/// `_RNvNtNtCs…_9mesh_ebpf5stage7deliver9send_fast` → `stage::deliver::send_fast`: the words of a mangled name behind its crate's, without what it is
/// generic over.
fn plain(name: &str) -> String {
    let path = name.strip_prefix("_R").and_then(|path| path.split("Cs").nth(1)).and_then(|path| path.split_once('_'));
    let Some((_, mut rest)) = path else { return name.to_owned() };
    let mut words = Vec::new();
    loop {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let Some((length, behind)) = rest.split_at_checked(digits) else { break };
        let Some((word, behind)) = length.parse().ok().and_then(|length| behind.split_at_checked(length)) else {
            break;
        };
        words.push(word);
        rest = behind;
    }
    words.get(1..).filter(|words| !words.is_empty()).map_or_else(|| name.to_owned(), |words| words.join("::"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instruction(code: u8, registers: u8, offset: i16, constant: i32) -> [u8; 8] {
        let ([a, b], [c, d, e, f]) = (offset.to_le_bytes(), constant.to_le_bytes());
        [code, registers, a, b, c, d, e, f]
    }

    #[test]
    fn what_a_function_keeps_and_whom_it_calls_is_read_from_its_code() {
        let body = [
            instruction(0x7b, 0x1a, -24, 0),           // *(u64 *)(r10 - 24) = r1
            instruction(MOVE, 0xa2, 0, 0),             // r2 = r10
            instruction(ADD_CONSTANT, 0x02, 0, -80),   // r2 += -80
            instruction(LOAD_64, 0x01, 0, 0x85),       // r1 = … ll
            instruction(CALL, 0x10, 0, 0),             // its second half: no call
            instruction(CALL, 0x10, 0, 3),             // call +3
            instruction(CALL, 0x00, 0, 5),             // a helper
            instruction(ADD_CONSTANT, 0x03, 0, -4000), // not the stack
        ]
        .concat();
        let found = |elsewhere| read("f".into(), &body, (4, 800), &elsewhere);
        let function = found(BTreeMap::new());
        assert_eq!((function.depth, function.calls, function.jumps), (80, [(4, 800 + 6 * 8 + 24)].into(), false));
        assert_eq!(found([(800 + 5 * 8, (1, 16))].into()).calls, [(1, 16)].into());
        let jump = instruction(CALL, 0x00, 0, TAIL_CALL);
        assert!(read("f".into(), &jump, (4, 0), &BTreeMap::new()).jumps);
    }

    #[test]
    fn the_deepest_chain_counts_and_a_frame_of_nothing_counts_32() {
        let function = |name: &str, depth, calls: &[u64]| {
            (name.to_string(), depth, calls.iter().map(|at| (1, *at)).collect::<BTreeSet<Place>>())
        };
        let all = [
            (0, function("entry", 33, &[8, 16])),
            (8, function("flat", 200, &[])),
            (16, function("deep", 160, &[24])),
            (24, function("leaf", 0, &[])),
        ];
        let functions = all
            .into_iter()
            .map(|(at, (name, depth, calls))| ((1, at), Function { name, depth, calls, jumps: false }))
            .collect();
        let chain = deepest(&functions, (1, 0));
        assert_eq!(chain.bytes, 64 + 224, "{chain:?}");
        let functions: BTreeMap<Place, Function> = functions;
        assert_eq!(deepest(&functions, (1, 16)).bytes, 160 + 32);
        assert_eq!(deepest(&functions, (1, 16)).told(), "192 bytes: deep (160) → leaf (0)");
    }

    #[test]
    fn names_are_told_as_they_are_written() {
        assert_eq!(plain("_RNvNtNtCserVFtSZCjw4_9mesh_ebpf5stage7deliver9send_fast"), "stage::deliver::send_fast");
        let generic =
            "_RINvNtNtCserVFtSZCjw4_9mesh_ebpf4hook9from_host4walkNtNtCs4SPbXNv4L5r_11mesh_common6family2V4EB6_";
        assert_eq!(plain(generic), "hook::from_host::walk");
        assert_eq!(plain("from_task"), "from_task");
    }
}
