/**
 * What a role may ask of the kernel: an allow-list (OCI runtime-spec, "Seccomp"). Anything else is answered as if this
 * kernel did not have it, which libraries know how to live with; new namespaces, keyrings, BPF, io_uring, modules,
 * mounts and tracing are all among that.
 */

type Argument = Readonly<{ index: number; value: number; valueTwo?: number; op: string }>
type Rule = Readonly<{ names: readonly string[]; action: 'SCMP_ACT_ALLOW'; args?: readonly Argument[] }>
export type Seccomp = Readonly<{
  defaultAction: string
  defaultErrnoRet: number
  architectures: readonly string[]
  syscalls: readonly Rule[]
}>

const ENOSYS = 38
const family = { unix: 1, inet: 2, inet6: 10, netlink: 16, packet: 17 } as const
export type Family = keyof typeof family
/** CLONE_NEW* of clone(2). */
const NEW_NAMESPACES = 0x7e020000

const common = `
  access arch_prctl bind brk capget capset chdir chmod clock_getres clock_gettime clock_nanosleep close close_range
  connect accept accept4 dup dup2 dup3 epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd2 execve exit
  exit_group faccessat faccessat2 fadvise64 fallocate fchdir fchmod fchmodat fcntl fdatasync flock fstat fstatfs fsync
  ftruncate futex getcwd getdents64 getegid geteuid getgid getgroups getpeername getpgid getpgrp getpid getppid
  getpriority getrandom getresgid getresuid getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid
  ioctl kill link linkat listen lseek lstat madvise membarrier mincore mkdir mkdirat mlock mmap mprotect mremap msync
  munlock munmap nanosleep newfstatat open openat pause pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll prctl
  pread64 preadv prlimit64 pselect6 pwrite64 pwritev read readlink readlinkat readv recvfrom recvmmsg recvmsg rename
  renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn
  rt_sigsuspend rt_sigtimedwait sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getparam
  sched_getscheduler sched_yield select sendmmsg sendmsg sendto set_robust_list set_tid_address setgid setgroups
  setitimer getitimer setpgid setresgid setresuid setsid setsockopt setuid shutdown sigaltstack signalfd4 socketpair
  stat statfs statx symlink symlinkat sync_file_range sysinfo tgkill time timer_create timer_delete timer_settime
  timerfd_create timerfd_gettime timerfd_settime times truncate umask uname unlink unlinkat utime utimensat utimes vfork
  wait4 waitid write writev`
  .trim()
  .split(/\s+/)
/** PostgreSQL keeps a System V segment, so that two servers never share a cluster. */
const sharedMemory = ['shmat', 'shmctl', 'shmdt', 'shmget']

/** @param families of sockets that may be made. */
export function seccomp(families: readonly Family[], withSharedMemory = false): Seccomp {
  const allow = (names: readonly string[], args: readonly Argument[] = []): Rule => ({
    names,
    action: 'SCMP_ACT_ALLOW',
    ...(args.length > 0 && { args }),
  })
  return {
    defaultAction: 'SCMP_ACT_ERRNO',
    defaultErrnoRet: ENOSYS,
    architectures: ['SCMP_ARCH_X86_64'],
    syscalls: [
      allow(withSharedMemory ? [...common, ...sharedMemory] : common),
      allow(['clone'], [{ index: 0, value: NEW_NAMESPACES, valueTwo: 0, op: 'SCMP_CMP_MASKED_EQ' }]),
      ...families.map(name => allow(['socket'], [{ index: 0, value: family[name], op: 'SCMP_CMP_EQ' }])),
    ],
  }
}
