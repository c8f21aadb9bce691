//! What the programs must be told of the running kernel before they are loaded.
//!
//! Rust emits no CO-RE relocations, so field offsets come as read-only globals. They are frozen
//! before the programs load, the verifier sees constants, and a direct load through a typed pointer
//! verifies. A program whose fields the kernel does not have is not loaded at all; where one
//! program serves several kernels, a flag here selects the branch and the verifier prunes the rest.

shared! {
    /// Byte offsets of kernel struct fields, from the running kernel's BTF, and the agent's own
    /// load-time parameters. Offsets of fields that the kernel lacks are 0.
    pub struct Layout [256] {
        /// `task_struct.pid`
        pub task_pid: u32,
        /// `task_struct.tgid`
        pub task_tgid: u32,
        /// `task_struct.flags`
        pub task_flags: u32,
        /// `task_struct.__state`, before 5.14 `state`
        pub task_state: u32,
        /// `task_struct.sched_task_group`
        pub task_sched_task_group: u32,
        /// `task_struct.se.cfs_rq`
        pub task_cfs_rq: u32,
        /// `task_struct.sched_info.run_delay`
        pub task_run_delay: u32,
        /// `task_struct.sched_info.last_arrival`
        pub task_last_arrival: u32,
        /// `task_struct.sched_info.last_queued`
        pub task_last_queued: u32,
        /// `cfs_rq.rq`
        pub cfs_rq_rq: u32,
        /// `rq.clock`
        pub rq_clock: u32,
        /// `rq.clock_task`
        pub rq_clock_task: u32,
        /// `task_group.css`
        pub task_group_css: u32,
        /// `cgroup_subsys_state.id`
        pub css_id: u32,
        /// `cgroup_subsys_state.serial_nr`
        pub css_serial: u32,
        /// `cgroup_subsys_state.cgroup`
        pub css_cgroup: u32,
        /// `cgroup_subsys_state.parent`
        pub css_parent: u32,
        /// `cgroup.kn`
        pub cgroup_kn: u32,
        /// `cgroup.root`
        pub cgroup_root: u32,
        /// `cgroup.subsys[cpu_cgrp_id]`
        pub cgroup_cpu_css: u32,
        /// `cgroup.subsys[io_cgrp_id]`
        pub cgroup_block_css: u32,
        /// `cgroup_root.hierarchy_id`
        pub cgroup_root_hierarchy_id: u32,
        /// `kernfs_node.id`
        pub kernfs_node_id: u32,
        /// `request.bio`
        pub request_bio: u32,
        /// `request.cmd_flags`
        pub request_cmd_flags: u32,
        /// `request.__data_len`
        pub request_data_len: u32,
        /// `request.start_time_ns`
        pub request_start_time: u32,
        /// `bio.bi_blkg`
        pub bio_blkg: u32,
        /// `blkcg_gq.blkcg`
        pub blkg_blkcg: u32,
        /// `blkcg.css`
        pub blkcg_css: u32,
        /// `REQ_OP_WRITE_ZEROES`
        pub op_write_zeroes: u32,
        /// `REQ_OP_ZONE_APPEND`
        pub op_zone_append: u32,
        /// `REQ_OP_SECURE_ERASE`
        pub op_secure_erase: u32,
        /// Argument of `block_rq_issue` that is the request: 1 where the queue comes first.
        pub issue_request_argument: u32,
        /// 1 if `sched_switch` has `prev_state` as its fourth argument (5.18 and later).
        pub switch_has_prev_state: u32,
        /// 1 if a task's block cgroup can be read from its bios.
        pub block_has_blkcg: u32,
        /// Slots per CPU in `SCHED`.
        pub slots: u32,
        /// Entries of `TASKS` less one; a power of two less one.
        pub task_mask: u32,
        /// `task_struct.group_leader`
        pub task_group_leader: u32,
        /// `task_struct.se.sum_exec_runtime`
        pub task_sum_exec: u32,
        /// `task_struct.start_boottime`
        pub task_start_boottime: u32,
        /// Byte of `task_struct.in_iowait`, a bitfield.
        pub task_in_iowait: u32,
        /// Its bit in that byte; 0 where the kernel lacks it.
        pub task_in_iowait_mask: u32,
        /// `task_struct.se.prev_sum_exec_runtime`
        pub task_prev_sum_exec: u32,
        /// `task_struct.signal`
        pub task_signal: u32,
        /// `signal_struct.flags`
        pub signal_flags: u32,
        /// `signal_struct.group_exec_task`, before 5.17 `group_exit_task`; 0 where the kernel lacks it.
        pub signal_exec_task: u32,
        /// `bio.bi_io_vec`
        pub bio_io_vec: u32,
        /// `rq.curr`; 0 where the kernel lacks it.
        pub rq_curr: u32,
        /// `task_struct.self_exec_id`; 0 where the kernel lacks it.
        pub task_self_exec_id: u32,
        /// `task_struct.comm`
        pub task_comm: u32,
        /// `task_struct.stack`; 0 where the kernel lacks it.
        pub task_stack: u32,
        /// `task_struct.mm`
        pub task_mm: u32,
        /// `mm_struct.start_stack`; 0 where the kernel lacks it.
        pub mm_start_stack: u32,
        /// `task_struct.thread.fsbase` of x86-64; 0 where the kernel lacks it.
        pub task_fsbase: u32,
        /// `cfs_rq.throttled_clock_self_time`, before 6.6 `throttled_clock_pelt_time`, before 5.19
        /// `throttled_clock_task_time`; 0 where the kernel lacks it.
        pub cfs_rq_throttled_ns: u32,
        /// `cfs_rq.throttle_count`; 0 where the kernel lacks it.
        pub cfs_rq_throttle_count: u32,
        /// `cfs_rq.throttled_clock_self`; 0 where the kernel lacks it, before 6.6: there a queue that is throttled while it
        /// is empty counts as throttled.
        pub cfs_rq_throttled_since: u32,
        /// `request.q`
        pub request_queue: u32,
        /// `task_struct.se.sched_delayed`; 0 where the kernel lacks it (before 6.12) or `sched_migrate_task`.
        pub task_sched_delayed: u32,
        /// Room for what is to come; zero.
        pub reserved: [u32; 4],
    }
}
