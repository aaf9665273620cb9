//! A scenario: a lab, a sentence, steps, and what happens when one of them is not as it should be.
//!
//! ```no_run
//! #[test]
//! fn nodes_reach_each_other() {
//!     mesh_lab::scenario("nodes reach each other", mesh_lab::Lab::builder(), |lab| {
//!         mesh_lab::step("n1 asks n2");
//!         assert!(lab.node("n1").ping(lab.node("n2").address(), 1)?.all_answered());
//!         Ok(())
//!     });
//! }
//! ```
//! A step that errs or panics saves the failure folder and prints it with the commands to look inside; MESH_LAB_KEEP=1 leaves
//! the lab up then. Without root a scenario says that it can't run; with MESH_MUST_RUN=1 (CI) that is a failure.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use anyhow::Result;

use crate::lab::{Builder, Lab};

thread_local! {
    /// The step that is being played on this thread, and when the scenario began.
    static STEP: RefCell<Option<(String, Instant)>> = const { RefCell::new(None) };
}

/// Says what comes next; a failure is reported under the last step's name.
pub fn step(name: &str) {
    STEP.with_borrow_mut(|step| {
        let began = step.as_ref().map_or_else(Instant::now, |(_, began)| *began);
        eprintln!("  [{:6.1} s] {name}", began.elapsed().as_secs_f32());
        *step = Some((name.to_owned(), began));
    });
}

/// Builds the lab, plays, takes the lab down. Panics where anything is not as it should be.
pub fn scenario(title: &str, builder: Builder, play: impl FnOnce(&Lab) -> Result<()>) {
    if let Some(reason) = cannot_run() {
        return skip(title, reason);
    }
    STEP.set(Some(("the start".to_owned(), Instant::now())));
    eprintln!("scenario: {title}");
    let lab = builder.up().unwrap_or_else(|error| panic!("{title}: the lab can't be built: {error:#}"));
    let outcome = catch_unwind(AssertUnwindSafe(|| play(&lab)));
    let failure = match &outcome {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(format!("{error:#}")),
        Err(panic) => Some(panic_text(panic.as_ref())),
    };
    if let Some(failure) = failure {
        let step = STEP.take().map(|(step, _)| step).unwrap_or_default();
        report(lab, title, &step, &failure);
    }
    lab.down().unwrap_or_else(|error| panic!("{title}: played well, but the lab can't be taken down: {error:#}"));
}

/// Why labs can't be built here; None where they can.
pub fn cannot_run() -> Option<&'static str> {
    (!nix::unistd::geteuid().is_root()).then_some("it needs root: run it through sudo")
}

/// Says that a test did not run, or fails where it must.
pub fn skip(title: &str, reason: &str) {
    assert!(
        std::env::var_os("MESH_MUST_RUN").is_none(),
        "{title}: can't run, but must (MESH_MUST_RUN is set): {reason}"
    );
    eprintln!("NOT RUN: {title}: {reason}");
}

fn report(lab: Lab, title: &str, step: &str, failure: &str) -> ! {
    let reason = format!("scenario: {title}\nstep: {step}\n{failure}");
    let folder = match lab.save_failure(&reason) {
        Ok(folder) => folder.display().to_string(),
        Err(error) => format!("nowhere: {error:#}"),
    };
    let look = lab.nodes().first().map(|node| node.namespace().nsenter()).unwrap_or_default();
    let ended = if std::env::var_os("MESH_LAB_KEEP").is_some() {
        let id = lab.id().to_owned();
        lab.keep().map(|()| format!("the lab {id} is kept; look inside with {look}"))
    } else {
        lab.down().map(|()| format!("MESH_LAB_KEEP=1 keeps the lab; then look inside with {look}"))
    };
    let ended = ended.unwrap_or_else(|error| format!("the lab can't be taken down: {error:#}"));
    panic!("{reason}\nwhat was there is in {folder}\n{ended}");
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without words".to_owned())
}
