//! From the kernel's BTF to what the programs must be told: [`Layout`], and which programs can run.
//!
//! Variants are chosen by what BTF says, never by the kernel's version: distributions backport. Walks
//! start at a tracepoint's argument and follow pointers by type, as the verifier will, so that a
//! second struct of the same name elsewhere in the kernel cannot mislead. A field that is missing,
//! or is not of the size or type that the programs load, costs the programs that need it, by name.
//!
//! `slots` and `task_mask` stay 0: the loader fills them.
//!
//! # Preempted tasks
//!
//! `TASK_REPORT_MAX` (0x100) exists only in the text event, where
//! `__trace_sched_switch_state` puts it in when argument 0, `preempt`, is true
//! (<https://github.com/torvalds/linux/blob/v6.12/include/trace/events/sched.h>). A BTF program
//! gets `prev_state` as `__schedule` read it from `prev->__state`, and there 0x100 is
//! `TASK_WAKEKILL`, part of every killable sleep
//! (<https://github.com/torvalds/linux/blob/v6.12/include/linux/sched.h>). So: a switch is
//! involuntary if `preempt` or the state is 0; a preempted task is runnable whatever its state says.

mod search;

use ctrscope_ebpf::layout::Layout;
use serde::Serialize;

use self::search::{Found, Kernel, Load, Tracepoint};
use super::btf::{Btf, TypeId};

/// Stands for a request operation that the kernel does not have: no request is of it, since
/// operations have 8 bits. Zero would be `REQ_OP_READ`.
pub const NO_OPERATION: u32 = u32::MAX;

/// The layout of a kernel's structs, and what can be measured with it.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// What the programs are told.
    pub layout: Layout,
    /// A verdict for each program.
    pub subjects: Subjects,
}

impl Resolved {
    /// The verdict on a program by its name, in one line.
    ///
    /// # Errors
    ///
    /// Something is missing, or there is no such program.
    pub fn verdict(&self, program: &str) -> Result<(), String> {
        match self
            .subjects
            .all()
            .into_iter()
            .find(|(name, _)| *name == program)
        {
            Some((_, verdict)) => verdict.as_result(),
            None => Err(format!("no program {program}")),
        }
    }
}

/// A verdict for each program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the names are the programs'")]
pub struct Subjects {
    pub sched_switch: Verdict,
    pub sched_process_exit: Verdict,
    pub cgroup_mkdir: Verdict,
    pub cgroup_rmdir: Verdict,
    pub cgroup_notify_populated: Verdict,
    pub block_rq_issue: Verdict,
    pub block_rq_complete: Verdict,
    pub profile: Verdict,
}

impl Subjects {
    /// The verdicts with the names of their programs.
    #[must_use]
    pub fn all(&self) -> [(&'static str, &Verdict); 8] {
        [
            ("sched_switch", &self.sched_switch),
            ("sched_process_exit", &self.sched_process_exit),
            ("cgroup_mkdir", &self.cgroup_mkdir),
            ("cgroup_rmdir", &self.cgroup_rmdir),
            ("cgroup_notify_populated", &self.cgroup_notify_populated),
            ("block_rq_issue", &self.block_rq_issue),
            ("block_rq_complete", &self.block_rq_complete),
            ("profile", &self.profile),
        ]
    }
}

/// Whether a program can run on a kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// What the kernel lacks that the program cannot do without: `request.bio`,
    /// `tracepoint block_rq_issue`.
    pub missing: Vec<String>,
    /// What the kernel lacks that the program does without, with a part of its meaning.
    pub reduced: Vec<String>,
}

impl Verdict {
    /// Whether the program can be loaded.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.missing.is_empty()
    }

    /// The verdict in one line: `Err` with what is missing if the program cannot be loaded.
    ///
    /// # Errors
    ///
    /// Something is missing.
    pub fn as_result(&self) -> Result<(), String> {
        if self.is_ok() {
            Ok(())
        } else {
            Err(format!("the kernel lacks {}", self.missing.join(", ")))
        }
    }

    fn require(&mut self, found: &[&Found]) {
        note(&mut self.missing, found);
    }

    fn prefer(&mut self, found: &[&Found]) {
        note(&mut self.reduced, found);
    }
}

fn note(list: &mut Vec<String>, found: &[&Found]) {
    for lack in found.iter().filter_map(|found| found.lack.as_ref()) {
        if !list.contains(lack) {
            list.push(lack.clone());
        }
    }
}

/// Finds every field, argument and constant that the programs need.
///
/// Costs one look-up by name for each struct; 3 ms on the first, which builds the index.
#[must_use]
pub fn resolve(btf: &Btf) -> Resolved {
    let mut layout = Layout::ZERO;
    let mut subjects = Subjects::default();
    let kernel = Kernel { btf };

    let switch = kernel.tracepoint("sched_switch");
    let switch_shape = switch.check(btf, &[&["_Bool", "bool"], TASK, TASK]);
    let exit = kernel.tracepoint("sched_process_exit");
    let mkdir = kernel.tracepoint("cgroup_mkdir");
    let rmdir = kernel.tracepoint("cgroup_rmdir");
    let populated = kernel.tracepoint("cgroup_notify_populated");
    let issue = kernel.tracepoint("block_rq_issue");
    let complete = kernel.tracepoint("block_rq_complete");

    // The task, its cgroup by the cpu controller, its run queue.
    let task = kernel.start("task_struct", switch.argument(1));
    let pid = kernel.field(&task, "pid", Load::Word);
    let tgid = kernel.field(&task, "tgid", Load::Word);
    let flags = kernel.field(&task, "flags", Load::Word);
    // Renamed when it shrank from `long` to `int` in 5.14; both mean the same in the low word.
    let mut state = kernel.field(&task, "__state", Load::LowWord);
    if state.lack.is_some() {
        let old = kernel.field(&task, "state", Load::LowWord);
        if old.lack.is_none() {
            state = old;
        }
    }
    let sched_task_group = kernel.field(&task, "sched_task_group", Load::Pointer);
    let se_cfs_rq = kernel.field(&task, "se.cfs_rq", Load::Pointer);
    let sum_exec = kernel.field(&task, "se.sum_exec_runtime", Load::Long);
    let run_delay = kernel.field(&task, "sched_info.run_delay", Load::Long);
    let last_arrival = kernel.field(&task, "sched_info.last_arrival", Load::Long);
    let last_queued = kernel.field(&task, "sched_info.last_queued", Load::Long);
    let prev_sum_exec = kernel.field(&task, "se.prev_sum_exec_runtime", Load::Long);
    let in_iowait = kernel.field(&task, "in_iowait", Load::Bit);
    let delayed = kernel.field(&task, "se.sched_delayed", Load::Byte);
    let migrate_shape = kernel.tracepoint("sched_migrate_task").check(btf, &[TASK]);
    let leader = kernel.field(&task, "group_leader", Load::Pointer);
    let start_boottime = kernel.field(&task, "start_boottime", Load::Long);
    let exec_id = kernel.field(&task, "self_exec_id", Load::LowWord);
    let comm = kernel.field(&task, "comm", Load::Name);
    let kernel_stack = kernel.field(&task, "stack", Load::Address);
    let task_mm = kernel.field(&task, "mm", Load::Pointer);
    let mm = kernel.follow("mm_struct", &task_mm);
    let start_stack = kernel.field(&mm, "start_stack", Load::Long);
    let fsbase = kernel.field(&task, "thread.fsbase", Load::Long);
    let task_signal = kernel.field(&task, "signal", Load::Pointer);
    let signal = kernel.follow("signal_struct", &task_signal);
    let signal_flags = kernel.field(&signal, "flags", Load::Word);
    // Renamed in 5.17, when a core dump came to use another one.
    let mut exec_task = kernel.field(&signal, "group_exec_task", Load::Pointer);
    if exec_task.lack.is_some() {
        let old = kernel.field(&signal, "group_exit_task", Load::Pointer);
        if old.lack.is_none() {
            exec_task = old;
        }
    }
    let cfs_rq = kernel.follow("cfs_rq", &se_cfs_rq);
    let cfs_rq_rq = kernel.field(&cfs_rq, "rq", Load::Pointer);
    // How long the group was throttled: renamed with the clock that it is measured by.
    let mut throttled = kernel.field(&cfs_rq, "throttled_clock_self_time", Load::Long);
    for earlier in ["throttled_clock_pelt_time", "throttled_clock_task_time"] {
        if throttled.lack.is_some() {
            let old = kernel.field(&cfs_rq, earlier, Load::Long);
            if old.lack.is_none() {
                throttled = old;
            }
        }
    }
    let throttled_since = kernel.field(&cfs_rq, "throttled_clock_self", Load::Long);
    let throttle_count = kernel.field(&cfs_rq, "throttle_count", Load::Word);
    let rq = kernel.follow("rq", &cfs_rq_rq);
    let clock = kernel.field(&rq, "clock", Load::Long);
    let clock_task = kernel.field(&rq, "clock_task", Load::Long);
    let rq_curr = kernel.field(&rq, "curr", Load::Pointer);
    let task_group = kernel.follow("task_group", &sched_task_group);
    let task_group_css = kernel.field(&task_group, "css", Load::Struct);

    // The cgroup.
    let css = kernel.start("cgroup_subsys_state", task_group_css.target);
    let css_id = kernel.field(&css, "id", Load::Word);
    let css_serial = kernel.field(&css, "serial_nr", Load::Long);
    let css_cgroup = kernel.field(&css, "cgroup", Load::Pointer);
    let css_parent = kernel.field(&css, "parent", Load::Pointer);
    let cgroup = kernel.follow("cgroup", &css_cgroup);
    let cgroup_kn = kernel.field(&cgroup, "kn", Load::Pointer);
    let cgroup_root = kernel.field(&cgroup, "root", Load::Pointer);
    let cpu_css = kernel.subsystem(&cgroup, "cpu_cgrp_id");
    let block_css = kernel.subsystem(&cgroup, "io_cgrp_id");
    let root = kernel.follow("cgroup_root", &cgroup_root);
    let hierarchy_id = kernel.field(&root, "hierarchy_id", Load::Word);
    let kernfs_node = kernel.follow("kernfs_node", &cgroup_kn);
    // Before 5.5 a union of the same 8 bytes.
    let kernfs_id = kernel.field(&kernfs_node, "id", Load::LongUnion);

    // The block request. With two arguments the queue comes first.
    let request_argument = match &issue {
        Tracepoint {
            arguments: Some(arguments),
            ..
        } if arguments.len() > 1 => 1,
        _ => 0,
    };
    let issue_shape = match request_argument {
        1 => issue.check(btf, &[&["struct request_queue *"], REQUEST]),
        _ => issue.check(btf, &[REQUEST]),
    };
    let complete_shape = complete.check(btf, &[REQUEST, &[], &["unsigned int"]]);
    let request = kernel.start("request", issue.argument(request_argument));
    let request_bio = kernel.field(&request, "bio", Load::Pointer);
    let cmd_flags = kernel.field(&request, "cmd_flags", Load::Word);
    let data_len = kernel.field(&request, "__data_len", Load::Word);
    let start_time = kernel.field(&request, "start_time_ns", Load::Long);
    let request_queue = kernel.field(&request, "q", Load::Pointer);
    let bio = kernel.follow("bio", &request_bio);
    let bio_blkg = kernel.field(&bio, "bi_blkg", Load::Pointer);
    let bio_io_vec = kernel.field(&bio, "bi_io_vec", Load::Pointer);
    let blkcg_gq = kernel.follow("blkcg_gq", &bio_blkg);
    let blkg_blkcg = kernel.field(&blkcg_gq, "blkcg", Load::Pointer);
    let blkcg = kernel.follow("blkcg", &blkg_blkcg);
    let blkcg_css = kernel.field(&blkcg, "css", Load::Struct);
    let operation = |name| {
        ["req_op", "req_opf"]
            .iter()
            .find_map(|enumeration| btf.enum_value(enumeration, name))
            .and_then(|value| u32::try_from(value).ok())
    };

    layout.task_pid = pid.offset;
    layout.task_tgid = tgid.offset;
    layout.task_flags = flags.offset;
    layout.task_state = state.offset;
    layout.task_sched_task_group = sched_task_group.offset;
    layout.task_cfs_rq = se_cfs_rq.offset;
    layout.task_sum_exec = sum_exec.offset;
    layout.task_prev_sum_exec = prev_sum_exec.offset;
    layout.task_group_leader = leader.offset;
    layout.task_start_boottime = start_boottime.offset;
    layout.task_self_exec_id = exec_id.offset;
    layout.task_comm = comm.offset;
    layout.task_stack = kernel_stack.offset;
    layout.task_mm = task_mm.offset;
    layout.mm_start_stack = start_stack.offset;
    // Of x86-64 alone; without it there are no Python functions.
    layout.task_fsbase = fsbase.offset;
    layout.task_in_iowait = in_iowait.offset;
    layout.task_in_iowait_mask = in_iowait.mask;
    if migrate_shape.lack.is_none() {
        layout.task_sched_delayed = delayed.offset;
    }
    layout.task_run_delay = run_delay.offset;
    layout.task_last_arrival = last_arrival.offset;
    layout.task_last_queued = last_queued.offset;
    layout.cfs_rq_rq = cfs_rq_rq.offset;
    layout.cfs_rq_throttled_ns = throttled.offset;
    layout.cfs_rq_throttled_since = throttled_since.offset;
    layout.cfs_rq_throttle_count = throttle_count.offset;
    layout.rq_clock = clock.offset;
    layout.rq_clock_task = clock_task.offset;
    layout.rq_curr = rq_curr.offset;
    let exec_is_told = [&task_signal, &signal_flags, &exec_task]
        .iter()
        .all(|found| found.lack.is_none());
    if exec_is_told {
        layout.task_signal = task_signal.offset;
        layout.signal_flags = signal_flags.offset;
        layout.signal_exec_task = exec_task.offset;
    }
    layout.task_group_css = task_group_css.offset;
    layout.css_id = css_id.offset;
    layout.css_serial = css_serial.offset;
    layout.css_cgroup = css_cgroup.offset;
    layout.css_parent = css_parent.offset;
    layout.cgroup_kn = cgroup_kn.offset;
    layout.cgroup_root = cgroup_root.offset;
    layout.cgroup_cpu_css = cpu_css.offset;
    layout.cgroup_block_css = block_css.offset;
    layout.cgroup_root_hierarchy_id = hierarchy_id.offset;
    layout.kernfs_node_id = kernfs_id.offset;
    layout.request_bio = request_bio.offset;
    layout.request_cmd_flags = cmd_flags.offset;
    layout.request_data_len = data_len.offset;
    layout.request_start_time = start_time.offset;
    layout.request_queue = request_queue.offset;
    layout.bio_blkg = bio_blkg.offset;
    layout.bio_io_vec = bio_io_vec.offset;
    layout.blkg_blkcg = blkg_blkcg.offset;
    layout.blkcg_css = blkcg_css.offset;
    layout.op_write_zeroes = operation("REQ_OP_WRITE_ZEROES").unwrap_or(NO_OPERATION);
    layout.op_zone_append = operation("REQ_OP_ZONE_APPEND").unwrap_or(NO_OPERATION);
    layout.op_secure_erase = operation("REQ_OP_SECURE_ERASE").unwrap_or(NO_OPERATION);
    layout.issue_request_argument = request_argument;
    // At the end by the kernel's rule for new arguments; any other fourth is not the state.
    let is_state = |id: &TypeId| btf.describe(*id) == "unsigned int";
    layout.switch_has_prev_state = u32::from(
        switch
            .arguments
            .iter()
            .flatten()
            .nth(3)
            .is_some_and(is_state),
    );
    let blkcg_path = [
        &request_bio,
        &bio_blkg,
        &bio_io_vec,
        &blkg_blkcg,
        &blkcg_css,
        &css_id,
        &css_serial,
    ];
    layout.block_has_blkcg = u32::from(blkcg_path.iter().all(|found| found.lack.is_none()));

    let owner = [&sched_task_group, &task_group_css, &css_id, &css_serial];
    let cgroup_identity = [&cgroup_kn, &kernfs_id];
    let seen = [&css_cgroup, &css_parent];

    let verdict = &mut subjects.sched_switch;
    verdict.require(&[&switch_shape, &pid, &flags, &state]);
    verdict.require(&owner);
    verdict.require(&seen);
    verdict.require(&cgroup_identity);
    verdict.require(&[&se_cfs_rq, &cfs_rq_rq, &clock, &clock_task]);
    verdict.require(&[&sum_exec, &run_delay, &last_arrival, &last_queued]);
    verdict.require(&[&prev_sum_exec]);
    verdict.prefer(&[&in_iowait, &throttled, &throttle_count]);
    // Without that field no task is where the tracepoint would be needed.
    if delayed.lack.is_none() {
        verdict.prefer(&[&migrate_shape]);
    }

    let verdict = &mut subjects.sched_process_exit;
    verdict.require(&[&exit.check(btf, &[TASK]), &pid, &tgid]);
    verdict.prefer(&[&task_signal, &signal_flags, &exec_task]);
    verdict.require(&owner);
    verdict.prefer(&seen);
    verdict.prefer(&cgroup_identity);

    let cgroup_and_path: &[&[&str]] = &[&["struct cgroup *"], &["char *"]];
    for (shape, verdict) in [
        (
            mkdir.check(btf, cgroup_and_path),
            &mut subjects.cgroup_mkdir,
        ),
        (
            rmdir.check(btf, cgroup_and_path),
            &mut subjects.cgroup_rmdir,
        ),
        (
            populated.check(btf, &[cgroup_and_path[0], cgroup_and_path[1], &["int"]]),
            &mut subjects.cgroup_notify_populated,
        ),
    ] {
        verdict.require(&[&shape]);
        verdict.require(&cgroup_identity);
        verdict.require(&[&cgroup_root, &hierarchy_id, &css_id, &css_serial]);
        verdict.prefer(&[&cpu_css, &block_css]);
    }
    subjects.cgroup_notify_populated.require(&[&css_parent]);

    let verdict = &mut subjects.block_rq_issue;
    verdict.require(&[
        &issue_shape,
        &complete_shape,
        &cmd_flags,
        &data_len,
        &start_time,
        &request_queue,
    ]);
    verdict.prefer(&blkcg_path);
    verdict.prefer(&seen);
    verdict.prefer(&cgroup_identity);

    // Either half alone measures nothing.
    let verdict = &mut subjects.block_rq_complete;
    verdict.require(&[
        &complete_shape,
        &issue_shape,
        &cmd_flags,
        &data_len,
        &start_time,
        &request_queue,
    ]);
    verdict.prefer(&blkcg_path);
    verdict.prefer(&seen);
    verdict.prefer(&cgroup_identity);

    let verdict = &mut subjects.profile;
    verdict.require(&[&pid, &tgid, &flags]);
    verdict.require(&[&leader, &start_boottime, &comm, &css_parent, &task_mm]);
    verdict.prefer(&[&exec_id, &kernel_stack, &start_stack]);
    verdict.require(&owner);

    Resolved { layout, subjects }
}

const TASK: &[&str] = &["struct task_struct *"];
const REQUEST: &[&str] = &["struct request *"];

#[cfg(test)]
mod tests;
