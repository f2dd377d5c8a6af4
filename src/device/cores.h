/* How many cores this process may use. */
#ifndef MOED_DEVICE_CORES_H
#define MOED_DEVICE_CORES_H

/*
 * The cpu quota of the process's cgroup and its ancestors, in cores, rounded up; 0 where there is
 * none. proc_cgroup is /proc/self/cgroup, cgroup_root /sys/fs/cgroup: parameters, so that tests can
 * bring their own. Reads cpu.max (v2) and cpu.cfs_quota_us with cpu.cfs_period_us (v1).
 */
int cores_quota(const char *proc_cgroup, const char *cgroup_root);

#endif
