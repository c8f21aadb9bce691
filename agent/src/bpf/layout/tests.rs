use std::path::Path;

use super::{
    super::btf::{
        self, Kind,
        builder::{Builder, FLAG},
    },
    *,
};

/// What differs between the kernels that are built here.
struct Shape {
    /// 5.10: `state`, two arguments of `block_rq_issue`, `enum req_opf`, `kernfs_node.id` a union.
    old: bool,
    without: &'static [&'static str],
}

/// A kernel of just the types that matter. Every struct begins with 8 bytes of something else, so
/// that no offset is 0.
fn kernel(shape: &Shape) -> Btf {
    let mut b = Builder::new();
    let int = b.int("int", 4);
    let uint = b.int("unsigned int", 4);
    let long = b.int("long unsigned int", 8);
    let signed_long = b.int("long int", 8);
    let boolean = b.int("_Bool", 1);
    let char_ = b.int("char", 1);
    let constant_char = b.refer(Kind::Const, "", char_);
    let path = b.ptr(constant_char);
    let blk_opf = b.refer(Kind::Typedef, "blk_opf_t", uint);
    let volatile = b.refer(Kind::Volatile, "", signed_long);

    let composite = |b: &mut Builder, name: &str, members: &[(&str, u32)]| {
        let placed: Vec<_> = members
            .iter()
            .filter(|(member, _)| !shape.without.contains(&format!("{name}.{member}").as_str()))
            .zip(1_u32..)
            .map(|((member, id), i)| (*member, *id, i * 64))
            .collect();
        b.composite(Kind::Struct, name, 256, &placed)
    };

    let id_union = b.composite(Kind::Union, "kernfs_node_id", 8, &[("id", long, 0)]);
    let kn_id = if shape.old { id_union } else { long };
    let kernfs_node = composite(&mut b, "kernfs_node", &[("id", kn_id)]);
    let kn = b.ptr(kernfs_node);
    let root = composite(&mut b, "cgroup_root", &[("hierarchy_id", int)]);
    let root = b.ptr(root);
    // The css and the cgroup refer to each other: the later ones' numbers are known by counting.
    let css = b.next_id();
    let (css_ptr, cgroup_ptr) = (css + 1, css + 2);
    composite(
        &mut b,
        "cgroup_subsys_state",
        &[
            ("cgroup", cgroup_ptr),
            ("id", int),
            ("serial_nr", long),
            ("parent", css_ptr),
        ],
    );
    b.ptr(css);
    b.ptr(css + 4);
    let subsystems = b.array(css_ptr, 4);
    composite(
        &mut b,
        "cgroup",
        &[("kn", kn), ("root", root), ("subsys", subsystems)],
    );
    let mut ids = vec![("cpuset_cgrp_id", 0), ("cpu_cgrp_id", 1), ("io_cgrp_id", 2)];
    ids.retain(|(name, _)| !shape.without.contains(name));
    b.enumeration(0, "cgroup_subsys_id", &ids);

    // Known by counting, too: the task refers to the run queue, and that to the task.
    let other_task = composite(&mut b, "task_struct", &[]);
    let curr = b.ptr(other_task);
    let rq = composite(
        &mut b,
        "rq",
        &[("clock", long), ("clock_task", long), ("curr", curr)],
    );
    let rq = b.ptr(rq);
    // The clock by which throttling is measured.
    let throttled = if shape.old {
        "throttled_clock_task_time"
    } else {
        "throttled_clock_self_time"
    };
    let fields = [("rq", rq), (throttled, long), ("throttle_count", int)];
    let cfs_rq = composite(&mut b, "cfs_rq", &fields);
    let cfs_rq = b.ptr(cfs_rq);
    let entity = composite(
        &mut b,
        "sched_entity",
        &[
            ("sum_exec_runtime", long),
            ("cfs_rq", cfs_rq),
            ("prev_sum_exec_runtime", long),
        ]
        .into_iter()
        .chain((!shape.old).then_some(("sched_delayed", char_)))
        .collect::<Vec<_>>(),
    );
    let info = composite(
        &mut b,
        "sched_info",
        &[
            ("run_delay", long),
            ("last_arrival", long),
            ("last_queued", long),
        ],
    );
    let group = composite(&mut b, "task_group", &[("css", css)]);
    let group = b.ptr(group);
    // Another struct of the same name, as drivers have them: types lead past it.
    b.composite(Kind::Struct, "task_struct", 4, &[("pid", int, 0)]);
    let state = if shape.old {
        ("state", volatile)
    } else {
        ("__state", uint)
    };
    let exec_task = if shape.old {
        "group_exit_task"
    } else {
        "group_exec_task"
    };
    let signal = composite(
        &mut b,
        "signal_struct",
        &[(exec_task, curr), ("flags", uint)],
    );
    let signal = b.ptr(signal);
    let comm = b.array(char_, 16);
    let void = b.ptr(0);
    let mm = composite(&mut b, "mm_struct", &[("start_stack", long)]);
    let mm = b.ptr(mm);
    // Embedded structs are large, so this one is laid out by hand.
    let mut members = vec![
        (state.0, state.1, 64),
        ("flags", uint, 128),
        ("pid", int, 192),
        ("tgid", int, 224),
        ("sched_task_group", group, 256),
        ("signal", signal, 320),
        // A bit, the fourth of its byte.
        ("in_iowait", uint, 1 << 24 | (384 + 3)),
        ("se", entity, 512),
        ("sched_info", info, 4096),
        ("group_leader", curr, 8192),
        ("start_boottime", long, 8256),
        ("self_exec_id", long, 8320),
        ("stack", void, 8384),
        ("comm", comm, 8448),
        ("mm", mm, 8576),
    ];
    members.retain(|(name, _, _)| {
        !shape
            .without
            .contains(&format!("task_struct.{name}").as_str())
    });
    let task = b.composite_with(FLAG, Kind::Struct, "task_struct", 4096, &members);
    let task = b.ptr(task);

    let blkcg = composite(&mut b, "blkcg", &[("css", css)]);
    let blkcg = b.ptr(blkcg);
    let blkg = composite(&mut b, "blkcg_gq", &[("blkcg", blkcg)]);
    let blkg = b.ptr(blkg);
    let vec = composite(&mut b, "bio_vec", &[]);
    let vec = b.ptr(vec);
    let bio = composite(&mut b, "bio", &[("bi_blkg", blkg), ("bi_io_vec", vec)]);
    let bio = b.ptr(bio);
    let queue = composite(&mut b, "request_queue", &[]);
    let queue = b.ptr(queue);
    let flags = if shape.old { uint } else { blk_opf };
    let request = composite(
        &mut b,
        "request",
        &[
            ("bio", bio),
            ("cmd_flags", flags),
            ("__data_len", uint),
            ("start_time_ns", long),
            ("q", queue),
        ],
    );
    let request = b.ptr(request);
    let operations = [
        ("REQ_OP_SECURE_ERASE", 5),
        ("REQ_OP_WRITE_ZEROES", 9),
        ("REQ_OP_ZONE_APPEND", 7),
    ];
    if shape.old {
        b.enumeration(0, "req_opf", &operations[..2]);
    } else {
        b.enumeration(0, "req_op", &operations);
    }

    let cgroup = cgroup_ptr;
    let error = if shape.old { int } else { char_ };
    for (name, arguments) in [
        ("sched_switch", vec![boolean, task, task, uint]),
        ("sched_process_exit", vec![task]),
        ("sched_migrate_task", vec![task, int]),
        ("cgroup_mkdir", vec![cgroup, path]),
        ("cgroup_rmdir", vec![cgroup, path]),
        ("cgroup_notify_populated", vec![cgroup, path, int]),
        ("block_rq_issue", vec![queue, request]),
        ("block_rq_complete", vec![request, error, uint]),
    ] {
        let arguments = match name {
            "sched_switch" if shape.old => &arguments[..3],
            "block_rq_issue" if !shape.old => &arguments[1..],
            _ => &arguments[..],
        };
        if !shape.without.contains(&name) {
            b.tracepoint(name, arguments);
        }
    }
    Btf::parse(b.bytes()).unwrap()
}

fn resolved(old: bool, without: &'static [&'static str]) -> Resolved {
    resolve(&kernel(&Shape { old, without }))
}

#[track_caller]
fn assert_all_ok(resolved: &Resolved) {
    for (name, verdict) in resolved.subjects.all() {
        assert_eq!(verdict, &Verdict::default(), "{name}");
    }
}

#[test]
fn a_new_kernel_runs_everything() {
    let resolved = resolved(false, &[]);
    assert_all_ok(&resolved);
    let layout = resolved.layout;
    assert_eq!((layout.task_state, layout.task_flags), (8, 16));
    assert_eq!((layout.task_pid, layout.task_tgid), (24, 28));
    assert_eq!(
        (layout.task_cfs_rq, layout.task_last_queued),
        (64 + 16, 512 + 24)
    );
    assert_eq!(layout.task_sum_exec, 64 + 8);
    assert_eq!(
        (layout.cfs_rq_throttled_ns, layout.cfs_rq_throttle_count),
        (16, 24)
    );
    assert_eq!((layout.task_in_iowait, layout.task_in_iowait_mask), (48, 8));
    assert_eq!((layout.signal_exec_task, layout.signal_flags), (8, 16));
    assert_eq!((layout.css_cgroup, layout.css_id), (8, 16));
    assert_eq!(
        (layout.cgroup_cpu_css, layout.cgroup_block_css),
        (24 + 8, 24 + 16)
    );
    assert_eq!((layout.request_bio, layout.request_start_time), (8, 32));
    assert_eq!(layout.request_queue, 40);
    assert_eq!(layout.switch_has_prev_state, 1);
    assert_eq!(layout.issue_request_argument, 0);
    assert_eq!(layout.block_has_blkcg, 1);
    assert_eq!(
        (
            layout.op_secure_erase,
            layout.op_zone_append,
            layout.op_write_zeroes
        ),
        (5, 7, 9)
    );
    assert_eq!((layout.slots, layout.task_mask), (0, 0));
}

#[test]
fn an_old_kernel_runs_everything() {
    let resolved = resolved(true, &[]);
    assert_all_ok(&resolved);
    let layout = resolved.layout;
    assert_eq!(layout.task_state, 8);
    assert_eq!(layout.cfs_rq_throttled_ns, 16);
    assert_eq!(layout.switch_has_prev_state, 0);
    assert_eq!(layout.issue_request_argument, 1);
    assert_eq!(layout.op_write_zeroes, 9);
    assert_eq!(layout.signal_exec_task, 8);
    // Not read as REQ_OP_READ.
    assert_eq!(layout.op_zone_append, NO_OPERATION);
}

#[test]
fn a_missing_tracepoint_switches_off_its_program_alone() {
    let subjects = resolved(false, &["cgroup_rmdir"]).subjects;
    assert_eq!(subjects.cgroup_rmdir.missing, ["tracepoint cgroup_rmdir"]);
    assert!(subjects.cgroup_mkdir.is_ok() && subjects.sched_switch.is_ok());
}

#[test]
fn a_missing_half_of_a_pair_switches_off_both() {
    let subjects = resolved(false, &["block_rq_issue"]).subjects;
    assert_eq!(
        subjects.block_rq_issue.missing,
        ["tracepoint block_rq_issue"]
    );
    assert_eq!(
        subjects.block_rq_complete.missing,
        ["tracepoint block_rq_issue"]
    );
    assert!(subjects.sched_switch.is_ok());
}

#[test]
fn without_sched_info_the_scheduler_alone_is_off() {
    let subjects = resolved(false, &["task_struct.sched_info"]).subjects;
    assert_eq!(
        subjects.sched_switch.missing,
        [
            "task_struct.sched_info.run_delay",
            "task_struct.sched_info.last_arrival",
            "task_struct.sched_info.last_queued"
        ]
    );
    assert!(subjects.profile.is_ok() && subjects.block_rq_issue.is_ok());
}

#[test]
fn without_a_word_on_io_and_exec_the_scheduler_runs_with_less() {
    let resolved = resolved(false, &["task_struct.in_iowait", "task_struct.signal"]);
    let subjects = &resolved.subjects;
    assert_eq!(subjects.sched_switch.reduced, ["task_struct.in_iowait"]);
    assert_eq!(subjects.sched_process_exit.reduced, ["task_struct.signal"]);
    assert!(subjects.sched_switch.is_ok() && subjects.sched_process_exit.is_ok());
    let layout = resolved.layout;
    assert_eq!(
        (layout.task_in_iowait_mask, layout.signal_exec_task),
        (0, 0)
    );
}

#[test]
fn without_a_word_on_throttling_the_scheduler_runs_with_less() {
    const LACKS: &[&str] = &["cfs_rq.throttled_clock_self_time", "cfs_rq.throttle_count"];
    let resolved = resolved(false, LACKS);
    assert_eq!(resolved.subjects.sched_switch.reduced, LACKS);
    assert!(resolved.subjects.sched_switch.is_ok());
    let layout = resolved.layout;
    assert_eq!(
        (layout.cfs_rq_throttled_ns, layout.cfs_rq_throttle_count),
        (0, 0)
    );
}

#[test]
fn without_block_cgroups_requests_are_measured_and_not_attributed() {
    let resolved = resolved(false, &["bio.bi_blkg", "io_cgrp_id"]);
    assert_eq!(resolved.layout.block_has_blkcg, 0);
    let issue = &resolved.subjects.block_rq_issue;
    assert!(issue.is_ok());
    assert_eq!(issue.reduced, ["bio.bi_blkg"]);
    assert_eq!(
        resolved.subjects.cgroup_mkdir.reduced,
        ["cgroup.subsys[io_cgrp_id]"]
    );
    assert_eq!(resolved.layout.cgroup_block_css, 0);
}

#[test]
fn a_field_of_another_size_is_said_to_be_so() {
    let mut b = Builder::new();
    let long = b.int("long unsigned int", 8);
    b.composite(
        Kind::Struct,
        "request",
        64,
        &[("__data_len", long, 64), ("bio", long, 128)],
    );
    let missing = resolve(&Btf::parse(b.bytes()).unwrap())
        .subjects
        .block_rq_issue
        .missing;
    let lack = "request.__data_len (is long unsigned int of 8 bytes)";
    assert!(missing.iter().any(|missing| missing == lack), "{missing:?}");
}

#[test]
fn an_empty_kernel_runs_nothing_and_says_why() {
    let resolved = resolve(&Btf::parse(Builder::new().bytes()).unwrap());
    for (name, verdict) in resolved.subjects.all() {
        assert!(!verdict.is_ok(), "{name}");
    }
}

#[test]
fn the_running_kernel_runs_everything() {
    if !Path::new(btf::KERNEL).exists() {
        println!("skipped: no {}", btf::KERNEL);
        return;
    }
    let btf = Btf::from_file(Path::new(btf::KERNEL)).unwrap();
    let resolved = resolve(&btf);
    println!("{:?}", resolved.layout);
    assert_all_ok(&resolved);
}

#[test]
fn who_is_moved_while_it_blocks_is_told_where_a_kernel_has_such_tasks() {
    assert_ne!(resolved(false, &[]).layout.task_sched_delayed, 0);
    let old = resolved(true, &[]);
    assert_eq!(old.layout.task_sched_delayed, 0);
    assert_eq!(old.subjects.sched_switch, Verdict::default());
    let resolved = resolved(false, &["sched_migrate_task"]);
    assert_eq!(resolved.layout.task_sched_delayed, 0);
    let lack = &resolved.subjects.sched_switch;
    assert_eq!(lack.reduced, ["tracepoint sched_migrate_task"]);
    assert!(lack.is_ok());
}
