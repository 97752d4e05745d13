/* Loaded into a process before the C library: records what is done to files under one folder, and makes it fail.

   PRELOAD_ROOT   the folder; nothing outside it is recorded or fails
   PRELOAD_LOG    append each operation to this file, in the order in which they happened, over all processes
   PRELOAD_FAULT  a file of 8 bytes that says what fails now; whoever wrote it may change it at any time:
                  [0] calls, bits: 1 write, 2 flush, 4 read, 8 names and room
                  [1] the error number
                  [2] how many of 255 such calls fail

   Rule: an operation and its record are one step under a lock, so that the log's order is the order of what happened.
   A flush has two records, as only what was written before it began is safe when it has ended. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { CREATE = 1, WRITE, RESIZE, FLUSH_BEGINS, FLUSH_ENDS, RENAME, LINK, UNLINK, MKDIR, RMDIR };
enum { ON_WRITE = 1, ON_FLUSH = 2, ON_READ = 4, ON_NAME = 8 };
enum { FILES = 65536 };

struct head {
    uint32_t kind, path_bytes, other_bytes, data_bytes;
    int64_t inode, at;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX];
static size_t root_bytes;
static int log_file = -1;
static volatile unsigned char *fault;
static ino_t inodes[FILES];  /* of the open files under the root, by descriptor; 0: none */
static unsigned chance = 2463534242u;

#define REAL(type, name, ...)                                        \
    static type (*real)(__VA_ARGS__);                                \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

/* Reads the environment. A process that was forked from one without PRELOAD_ROOT calls it again. */
__attribute__((constructor)) void preload_begin(void) {
    const char *name = getenv("PRELOAD_ROOT");
    if (!name || !realpath(name, root)) return;
    root_bytes = strlen(root);
    chance ^= (unsigned)getpid() * 2654435761u;
    if ((name = getenv("PRELOAD_LOG")))
        log_file = (int)syscall(SYS_openat, AT_FDCWD, name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if ((name = getenv("PRELOAD_FAULT"))) {
        int file = (int)syscall(SYS_openat, AT_FDCWD, name, O_RDONLY | O_CLOEXEC, 0);
        void *place = file < 0 ? MAP_FAILED : mmap(NULL, 8, PROT_READ, MAP_SHARED, file, 0);
        if (file >= 0) syscall(SYS_close, file);
        if (place != MAP_FAILED) fault = place;
    }
}

/* Does a call of this kind fail now? Sets errno. */
static int fails(unsigned kind) {
    if (!fault || !(fault[0] & kind)) return 0;
    chance ^= chance << 13, chance ^= chance >> 17, chance ^= chance << 5;
    if (chance % 255 >= fault[2]) return 0;
    errno = fault[1];
    return 1;
}

/* The absolute path of `path` seen from the folder `at`; whether it lies under the root. */
static int under(int at, const char *path, char *whole) {
    char folder[PATH_MAX], name[64];
    if (!root_bytes || !path) return 0;
    if (path[0] == '/') {
        if (snprintf(whole, PATH_MAX, "%s", path) >= PATH_MAX) return 0;
    } else {
        if (at == AT_FDCWD) {
            if (!getcwd(folder, sizeof folder)) return 0;
        } else {
            snprintf(name, sizeof name, "/proc/self/fd/%d", at);
            ssize_t size = readlink(name, folder, sizeof folder - 1);
            if (size < 0) return 0;
            folder[size] = 0;
        }
        if (snprintf(whole, PATH_MAX, "%s/%s", folder, path) >= PATH_MAX) return 0;
    }
    return !strncmp(whole, root, root_bytes) && (whole[root_bytes] == '/' || !whole[root_bytes]);
}

static void record(int kind, ino_t inode, int64_t at, const char *path, const char *other, const void *data, size_t size) {
    if (log_file < 0) return;
    int before = errno;
    struct head head = {(uint32_t)kind, path ? (uint32_t)strlen(path) : 0, other ? (uint32_t)strlen(other) : 0,
                        data ? (uint32_t)size : 0, (int64_t)inode, at};
    struct iovec parts[4] = {{&head, sizeof head},
                             {(void *)path, head.path_bytes},
                             {(void *)other, head.other_bytes},
                             {(void *)data, head.data_bytes}};
    if (syscall(SYS_writev, log_file, parts, 4) != (long)(sizeof head + head.path_bytes + head.other_bytes + head.data_bytes))
        abort(); /* a log with a hole is worth nothing */
    errno = before;
}

static ino_t inode_of(int file) {
    struct stat facts;
    if (!root_bytes || file < 0 || file >= FILES || !inodes[file]) return 0;
    if (fstat(file, &facts) || facts.st_ino != inodes[file]) return inodes[file] = 0;
    return facts.st_ino;
}

/* Opening */

static int opened(int at, const char *path, int flags, mode_t mode) {
    char whole[PATH_MAX];
    struct stat facts;
    if (!under(at, path, whole)) return (int)syscall(SYS_openat, at, path, flags, mode);
    if ((flags & O_CREAT) && fails(ON_NAME)) return -1;
    if (!(flags & O_CREAT) && fails(ON_READ)) return -1;
    pthread_mutex_lock(&lock);
    int is_new = (flags & O_CREAT) && lstat(whole, &facts);
    int file = (int)syscall(SYS_openat, at, path, flags, mode);
    if (file >= 0 && file < FILES && !fstat(file, &facts)) {
        inodes[file] = facts.st_ino;
        if (is_new)
            record(CREATE, facts.st_ino, 0, whole, NULL, NULL, 0);
        else if ((flags & O_TRUNC) && S_ISREG(facts.st_mode))
            record(RESIZE, facts.st_ino, 0, whole, NULL, NULL, 0);
    }
    pthread_mutex_unlock(&lock);
    return file;
}

#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { va_list more; va_start(more, flags); mode = va_arg(more, mode_t); va_end(more); }

int open(const char *path, int flags, ...) { MODE(flags) return opened(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return opened(AT_FDCWD, path, flags | O_LARGEFILE, mode); }
int openat(int at, const char *path, int flags, ...) { MODE(flags) return opened(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { MODE(flags) return opened(at, path, flags | O_LARGEFILE, mode); }
int __open_2(const char *path, int flags) { return opened(AT_FDCWD, path, flags, 0); }
int __open64_2(const char *path, int flags) { return opened(AT_FDCWD, path, flags | O_LARGEFILE, 0); }
int __openat_2(int at, const char *path, int flags) { return opened(at, path, flags, 0); }
int __openat64_2(int at, const char *path, int flags) { return opened(at, path, flags | O_LARGEFILE, 0); }
int creat(const char *path, mode_t mode) { return opened(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return opened(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

int close(int file) {
    if (file >= 0 && file == log_file) return 0; /* somebody who closes all that is open */
    if (file >= 0 && file < FILES) inodes[file] = 0;
    return (int)syscall(SYS_close, file);
}

/* Writing and reading */

static ssize_t written(int file, const void *data, size_t size, int64_t at) {
    ino_t inode = inode_of(file);
    if (!inode) return at < 0 ? syscall(SYS_write, file, data, size) : syscall(SYS_pwrite64, file, data, size, at);
    if (fails(ON_WRITE)) return -1;
    pthread_mutex_lock(&lock);
    ssize_t done = at < 0 ? syscall(SYS_write, file, data, size) : syscall(SYS_pwrite64, file, data, size, at);
    if (done > 0) record(WRITE, inode, at < 0 ? lseek(file, 0, SEEK_CUR) - done : at, NULL, NULL, data, (size_t)done);
    pthread_mutex_unlock(&lock);
    return done;
}

ssize_t write(int file, const void *data, size_t size) { return written(file, data, size, -1); }
ssize_t pwrite(int file, const void *data, size_t size, off_t at) { return written(file, data, size, at); }
ssize_t pwrite64(int file, const void *data, size_t size, off64_t at) { return written(file, data, size, at); }

ssize_t writev(int file, const struct iovec *parts, int count) {
    if (!inode_of(file)) return syscall(SYS_writev, file, parts, count);
    ssize_t total = 0;
    for (int place = 0; place < count; place++) {
        ssize_t done = written(file, parts[place].iov_base, parts[place].iov_len, -1);
        if (done < 0) return total ? total : -1;
        total += done;
        if ((size_t)done < parts[place].iov_len) break;
    }
    return total;
}

ssize_t read(int file, void *data, size_t size) {
    return inode_of(file) && fails(ON_READ) ? -1 : syscall(SYS_read, file, data, size);
}
ssize_t pread(int file, void *data, size_t size, off_t at) {
    return inode_of(file) && fails(ON_READ) ? -1 : syscall(SYS_pread64, file, data, size, at);
}
ssize_t pread64(int file, void *data, size_t size, off64_t at) { return pread(file, data, size, at); }

static int resized(int file, off_t size) {
    ino_t inode = inode_of(file);
    if (inode && fails(ON_WRITE)) return -1;
    pthread_mutex_lock(&lock);
    int done = (int)syscall(SYS_ftruncate, file, size);
    if (inode && !done) record(RESIZE, inode, size, NULL, NULL, NULL, 0);
    pthread_mutex_unlock(&lock);
    return done;
}
int ftruncate(int file, off_t size) { return resized(file, size); }
int ftruncate64(int file, off64_t size) { return resized(file, size); }

static int set_aside(int file, off_t at, off_t size) {
    REAL(int, "posix_fallocate64", int, off_t, off_t);
    struct stat facts;
    ino_t inode = inode_of(file);
    if (inode && fails(ON_NAME)) return errno;
    pthread_mutex_lock(&lock);
    int done = real(file, at, size);
    if (inode && !done && !fstat(file, &facts)) record(RESIZE, inode, facts.st_size, NULL, NULL, NULL, 0);
    pthread_mutex_unlock(&lock);
    return done;
}
int posix_fallocate(int file, off_t at, off_t size) { return set_aside(file, at, size); }
int posix_fallocate64(int file, off64_t at, off64_t size) { return set_aside(file, at, size); }

/* What copies inside the kernel is not recorded: callers fall back to read and write. */
ssize_t sendfile(int out, int in, off_t *at, size_t size) {
    if (!inode_of(out)) return syscall(SYS_sendfile, out, in, at, size);
    errno = EINVAL;
    return -1;
}
ssize_t sendfile64(int out, int in, off64_t *at, size_t size) { return sendfile(out, in, at, size); }
ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t size, unsigned flags) {
    if (!inode_of(out)) return syscall(SYS_copy_file_range, in, from, out, to, size, flags);
    errno = EXDEV;
    return -1;
}

/* Flushing */

static int flushed(int file, long call) {
    ino_t inode = inode_of(file);
    if (inode && fails(ON_FLUSH)) return -1;
    char name[64], path[PATH_MAX] = "";
    struct stat facts;
    if (inode && !fstat(file, &facts) && S_ISDIR(facts.st_mode)) {
        snprintf(name, sizeof name, "/proc/self/fd/%d", file);
        ssize_t size = readlink(name, path, sizeof path - 1);
        path[size < 0 ? 0 : size] = 0;
    }
    if (inode) record(FLUSH_BEGINS, inode, getpid() * 65536L + file, path, NULL, NULL, 0);
    int done = (int)syscall(call, file);
    if (inode && !done) record(FLUSH_ENDS, inode, getpid() * 65536L + file, path, NULL, NULL, 0);
    return done;
}
int fsync(int file) { return flushed(file, SYS_fsync); }
int fdatasync(int file) { return flushed(file, SYS_fdatasync); }

/* Names */

static int renamed(int from, const char *old, int to, const char *new, unsigned flags) {
    char source[PATH_MAX], target[PATH_MAX];
    struct stat facts;
    int is_ours = under(from, old, source) & under(to, new, target);
    if (is_ours && fails(ON_NAME)) return -1;
    pthread_mutex_lock(&lock);
    if (is_ours && lstat(source, &facts)) facts.st_ino = 0;
    int done = (int)syscall(SYS_renameat2, from, old, to, new, flags);
    if (is_ours && !done) record(RENAME, facts.st_ino, 0, source, target, NULL, 0);
    pthread_mutex_unlock(&lock);
    return done;
}
int rename(const char *old, const char *new) { return renamed(AT_FDCWD, old, AT_FDCWD, new, 0); }
int renameat(int from, const char *old, int to, const char *new) { return renamed(from, old, to, new, 0); }
int renameat2(int from, const char *old, int to, const char *new, unsigned flags) { return renamed(from, old, to, new, flags); }

static int linked(int from, const char *old, int to, const char *new, int flags) {
    char source[PATH_MAX], target[PATH_MAX];
    int is_ours = under(from, old, source) & under(to, new, target);
    if (is_ours && fails(ON_NAME)) return -1;
    pthread_mutex_lock(&lock);
    int done = (int)syscall(SYS_linkat, from, old, to, new, flags);
    if (is_ours && !done) record(LINK, 0, 0, source, target, NULL, 0);
    pthread_mutex_unlock(&lock);
    return done;
}
int link(const char *old, const char *new) { return linked(AT_FDCWD, old, AT_FDCWD, new, 0); }
int linkat(int from, const char *old, int to, const char *new, int flags) { return linked(from, old, to, new, flags); }

static int removed(int at, const char *path, int flags) {
    char whole[PATH_MAX];
    int is_ours = under(at, path, whole);
    pthread_mutex_lock(&lock);
    int done = (int)syscall(SYS_unlinkat, at, path, flags);
    if (is_ours && !done) record(flags & AT_REMOVEDIR ? RMDIR : UNLINK, 0, 0, whole, NULL, NULL, 0);
    pthread_mutex_unlock(&lock);
    return done;
}
int unlink(const char *path) { return removed(AT_FDCWD, path, 0); }
int unlinkat(int at, const char *path, int flags) { return removed(at, path, flags); }
int rmdir(const char *path) { return removed(AT_FDCWD, path, AT_REMOVEDIR); }
int remove(const char *path) {
    struct stat facts;
    return removed(AT_FDCWD, path, !lstat(path, &facts) && S_ISDIR(facts.st_mode) ? AT_REMOVEDIR : 0);
}

static int made(int at, const char *path, mode_t mode) {
    char whole[PATH_MAX];
    int is_ours = under(at, path, whole);
    if (is_ours && fails(ON_NAME)) return -1;
    pthread_mutex_lock(&lock);
    int done = (int)syscall(SYS_mkdirat, at, path, mode);
    if (is_ours && !done) record(MKDIR, 0, 0, whole, NULL, NULL, 0);
    pthread_mutex_unlock(&lock);
    return done;
}
int mkdir(const char *path, mode_t mode) { return made(AT_FDCWD, path, mode); }
int mkdirat(int at, const char *path, mode_t mode) { return made(at, path, mode); }
