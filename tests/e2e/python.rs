//! Functions of Python between the native frames of its interpreter.

use std::{fs, process::Command};

use ctrscope_tests::{Agent, skip};
use tempfile::TempDir;

use crate::{
    observe::group,
    profile::{beside, record_until, stacks},
};

/// `sorted` is native and calls back.
const SCRIPT: &str = "\
def busy(n):
    total = 0
    for i in range(n):
        total += i * i % 7
    return total

class Shop:
    def price(self, n):
        return sorted([3, 1, 2], key=lambda x: busy(n))

def main():
    while True:
        Shop().price(2000)

main()
";

/// The first thread is the last in the interpreter's list, and one sample looks at 128 of them.
const THREADS: &str = "\
import threading

def busy():
    while True:
        pass

for _ in range(1000):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
busy()
";

/// Functions of the script, the outermost first, with the lines on which they call.
const CALLERS: [&str; 4] = [
    "<module> (lib/shop.py:15)",
    "main (lib/shop.py:13)",
    "Shop.price (lib/shop.py:9)",
    "Shop.price.<locals>.<lambda> (lib/shop.py:9)",
];

/// Whether a stack leads through all callers to `busy`, with native frames where `sorted` is.
fn is_whole(stack: &str) -> bool {
    let frames: Vec<&str> = stack.split(';').collect();
    let at = |name: &str| frames.iter().position(|frame| *frame == name);
    let places: Vec<usize> = CALLERS.iter().filter_map(|caller| at(caller)).collect();
    let [module, main, price, lambda] = places[..] else {
        return false;
    };
    let is_busy = |frame: &&str| {
        let line = frame.strip_prefix("busy (lib/shop.py:");
        line.is_some_and(|line| ["3)", "4)"].contains(&line))
    };
    // The container and the process stand before it, and the native start of the interpreter.
    module > 2
        && !frames.contains(&"_PyEval_EvalFrameDefault")
        && main == module + 1
        && price == main + 1
        && lambda > price + 1
        && frames.get(lambda + 1).is_some_and(is_busy)
}

/// One whose frames can be walked.
fn python() -> Option<&'static str> {
    let is_known = |python: &&str| {
        let check = "import sys; sys.exit(sys.version_info < (3, 11))";
        let status = Command::new(python).args(["-c", check]).status();
        status.is_ok_and(|status| status.success())
    };
    ["/usr/bin/python3", "python3"].into_iter().find(is_known)
}

#[test]
fn functions_of_python_stand_where_the_interpreter_does() {
    let agent = Agent::start(&[]).unwrap();
    let directory = TempDir::new().unwrap();
    let script = directory.path().join("lib/shop.py");
    fs::create_dir(directory.path().join("lib")).unwrap();
    fs::write(&script, SCRIPT).unwrap();
    let Some(python) = python() else {
        skip("no Python 3.11 or later is installed");
        return;
    };
    let (container, _python) = beside(&group(), Command::new(python).arg(&script));
    record_until(&agent, &container, "folded", |folded| {
        let (mut whole, mut all) = (0, 0);
        for (stack, count) in stacks(folded) {
            all += count;
            whole += if is_whole(stack) { count } else { 0 };
        }
        // Some are sampled while they set up or take down what they call.
        whole * 2 > all
    });
}

#[test]
fn a_thread_among_a_thousand_has_its_functions() {
    let agent = Agent::start(&[]).unwrap();
    let directory = TempDir::new().unwrap();
    let script = directory.path().join("threads.py");
    fs::write(&script, THREADS).unwrap();
    let Some(python) = python() else {
        skip("no Python 3.11 or later is installed");
        return;
    };
    let (container, _python) = beside(&group(), Command::new(python).arg(&script));
    record_until(&agent, &container, "folded", |folded| {
        let (mut found, mut all) = (0, 0);
        for (stack, count) in stacks(folded) {
            all += count;
            found += if stack.contains(";busy (") { count } else { 0 };
        }
        // The first samples search for it.
        found * 4 > all * 3
    });
}
