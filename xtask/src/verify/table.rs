//! docs/reference/verifier.md: programs by kernels. Written by the verb and read back by it, so that a change shows.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use anyhow::{Context, Result};

/// Programs of one kernel, or why it refused them.
pub type Counts = BTreeMap<String, Result<Count, String>>;

/// By more per cent than this, up or down, a count is told.
const JUMP_PERCENT: u64 = 10;
/// What it takes, on two cores.
const TIMES: &str = "On two cores, everything built, the whole takes eight minutes; `--counts-only`, a step of `.ci/run`, half a minute.";
/// Changes of small programs are no news.
const SMALL: u64 = 2_000;

/// Instructions that a verifier may walk for a program, at most; the kernel's own limit is a million (BPF_COMPLEXITY_LIMIT_INSNS in linux/bpf.h).
/// Half of it and a little is for what is there: the rest is room. Who goes beyond takes something out, or gives it a program of its own
/// (docs/decisions/0033-programs-behind-hooks.md).
pub fn budget(program: &str) -> u64 {
    match program {
        // It is from_overlay, too, for what comes the fast way.
        "from_uplink" | "from_uplink6" => 600_000,
        // The latter is for both families.
        "from_overlay" | "from_overlay6" | "beside" => 500_000,
        "from_task" | "from_task6" | "from_host" | "from_host6" | "icmp_errors" | "icmp_errors6" | "turned_back" => {
            400_000
        }
        "sweep" => 300_000,
        "fragments" => 150_000,
        "xdp_uplink" => 150_000,
        // Socket hooks.
        _ => 20_000,
    }
}

/// What the kernel made of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    /// Instructions that the verifier walked, over all paths.
    pub walked: u64,
    /// Of machine code.
    pub machine_bytes: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// By series: `6.1`.
    pub kernels: BTreeMap<String, Counts>,
}

/// `6.1.0-56-amd64` → `6.1`.
pub fn series(release: &str) -> Result<String> {
    let mut numbers = release.split('.');
    let series = numbers.next().zip(numbers.next()).with_context(|| format!("`{release}` is no kernel's release"))?;
    Ok(format!("{}.{}", series.0, series.1))
}

impl Table {
    /// The table of a page; empty where it has none.
    pub fn parse(page: &str) -> Table {
        let mut rows = page.lines().filter(|line| line.starts_with('|')).map(|line| {
            line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect::<Vec<_>>()
        });
        let mut table = Table::default();
        let Some(head) = rows.next() else { return table };
        // Behind program and budget two columns a kernel: instructions, bytes.
        let kernels: Vec<String> =
            head.iter().skip(2).step_by(2).filter_map(|cell| cell.split(':').next()).map(str::to_owned).collect();
        for row in rows.skip(1) {
            for (kernel, cells) in kernels.iter().zip(row.get(2..).unwrap_or_default().chunks(2)) {
                let numbers: Vec<u64> = cells.iter().filter_map(|cell| cell.replace(',', "").parse().ok()).collect();
                let [walked, machine_bytes] = numbers[..] else { continue };
                let counts = table.kernels.entry(kernel.clone()).or_default();
                counts.insert(row[0].clone(), Ok(Count { walked, machine_bytes }));
            }
        }
        table
    }

    pub fn markdown(&self) -> String {
        let programs: BTreeSet<&String> = self.kernels.values().flat_map(BTreeMap::keys).collect();
        let mut text = String::from("| program | budget |");
        for kernel in self.kernels.keys() {
            let _ = write!(text, " {kernel}: instructions walked | {kernel}: bytes of machine code |");
        }
        let _ = write!(text, "\n|---|--:|{}\n", "--:|--:|".repeat(self.kernels.len()));
        for program in programs {
            let _ = write!(text, "| `{program}` | {} |", thousands(budget(program)));
            for counts in self.kernels.values() {
                let cells = match counts.get(program) {
                    Some(Ok(count)) => [thousands(count.walked), thousands(count.machine_bytes)],
                    Some(Err(_)) => ["refused".into(), String::new()],
                    None => [String::new(), String::new()],
                };
                let _ = write!(text, " {} | {} |", cells[0], cells[1]);
            }
            text.push('\n');
        }
        text
    }

    /// This one, with the kernels of the other as counted there.
    pub fn with(mut self, counted: &Table) -> Table {
        self.kernels.extend(counted.kernels.clone());
        self
    }

    /// What changed much since the other one was recorded.
    pub fn jumps(&self, recorded: &Table) -> Vec<String> {
        let mut jumps = Vec::new();
        for (kernel, counts) in &self.kernels {
            let Some(before) = recorded.kernels.get(kernel) else { continue };
            for (program, count) in counts {
                let (Ok(now), Some(Ok(was))) = (count, before.get(program)) else { continue };
                let differs = now.walked.abs_diff(was.walked);
                if differs > SMALL && differs * 100 > was.walked * JUMP_PERCENT {
                    jumps
                        .push(format!("{program} on Linux {kernel}: {} instructions, were {}", now.walked, was.walked));
                }
            }
        }
        jumps
    }

    pub fn page(&self) -> String {
        format!(
            "# What the verifiers say\n\n\
             Before a program runs, the kernel walks all of its paths: a million instructions at most. `cargo xtask verify` loads each program on this machine's\n\
             kernel and on Debian 12's (6.1), counts, and fails where one is refused or goes beyond its budget (`xtask/src/verify/table.rs`); where a count moved by more\n\
             than {JUMP_PERCENT} % against this page it says so. Written by `cargo xtask verify --record`.\n\n\
             Debian's kernel runs in a machine under QEMU without KVM: no disk, no network, two processors. There the verb also plays a hundred thousand\n\
             random frames against the model (`packet_model`), two nodes whose programs are filters of clsact, killed and purged (`scenario_clsact`), and nodes whose tunnel runs in a\n\
             VLAN (`lab_vlan`). {TIMES}\n\n{}",
            self.markdown()
        )
    }
}

/// `263819` → `263,819`.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(walked: u64) -> Table {
        let counts = |walked| [("from_task".to_string(), Ok(Count { walked, machine_bytes: 27_229 }))].into();
        Table { kernels: [("6.1".into(), counts(walked)), ("6.18".into(), counts(1_179_324))].into() }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let written = table(45_773);
        assert_eq!(Table::parse(&written.page()), written);
        assert_eq!(Table::parse("# nothing yet\n"), Table::default());
        assert!(
            written.markdown().contains("| `from_task` | 400,000 | 45,773 | 27,229 | 1,179,324 |"),
            "{}",
            written.markdown()
        );
    }

    #[test]
    fn a_jump_is_told_and_a_step_is_not() {
        assert_eq!(table(50_000).jumps(&table(45_773)), Vec::<String>::new());
        assert_eq!(table(51_000).jumps(&table(45_773)).len(), 1);
        assert_eq!(table(30_000).jumps(&table(45_773)).len(), 1);
        assert_eq!(table(900).jumps(&table(100)), Vec::<String>::new(), "a small program");
        assert_eq!(table(900).jumps(&Table::default()), Vec::<String>::new());
    }

    #[test]
    fn a_kernel_is_known_by_its_series() {
        assert_eq!(series("6.1.0-56-amd64").unwrap(), "6.1");
        assert_eq!(series("6.18.44").unwrap(), "6.18");
        assert!(series("next").is_err());
    }
}
