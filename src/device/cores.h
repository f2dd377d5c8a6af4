/* How many cores this process may use. */
#ifndef MOED_DEVICE_CORES_H
#define MOED_DEVICE_CORES_H

/*
 * The cpu quota of the process's cgroup and its ancestors, in cores, rounded up; 0 where there is
 * none. proc_cgroup is /proc/self/cgroup, cgroup_root /sys/fs/cgroup: parameters, so that tests can
 * bring their own. Reads cpu.max (v2) and cpu.cfs_quota_us with cpu.cfs_period_us (v1).
 */
int cores_quota(const char *proc_cgroup, const char *cgroup_root);

/*
 * Chooses n of the CPUs in cpu[count] (ascending) for threads that stay: moves them to the front.
 * Different physical cores come first; what is left over is whole cores, the lowest ones, where
 * there is a choice. cpu_root is /sys/devices/system/cpu; CPUs it knows nothing of count as cores
 * of their own.
 */
void cores_spread(int *cpu, int count, int n, const char *cpu_root);

/*
 * How many threads may spin while a step runs, at least 1. A CPU is left to all others: the engine
 * thread, which spins too but yields, the pager's and the server's, which mostly sleep. Of a quota
 * below that (0: none) two are left: it counts what everyone uses, and who exceeds it is stopped
 * for milliseconds.
 */
int cores_to_spin_on(int allowed, int quota);
int cores_to_spin_on_here(void);

/* CPUs of this thread's affinity mask, ascending, at most max; returns how many. */
int cores_allowed(int *cpu, int max);

#endif
