/* Loaded into a server (LD_PRELOAD), this writes down in which order it writes its append-only file, has it on disk,
 * and answers its clients: a line for each, to the file that WITNESS_LOG names. It changes nothing and waits for nothing.
 *
 *   A <bytes>   so many bytes were written to a file of the append-only log; nobody says that they are on disk
 *   S           all that was written to it is on disk: fdatasync or fsync came back
 *   R <bytes>   so many bytes were written to a socket
 *
 * A line is written after the call came back for A and S, and before the call is made for R: an answer that is on its way
 * before the S that covers it stands before it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static int witness = -1;

__attribute__((constructor)) static void begin(void) {
  const char *log = getenv("WITNESS_LOG");
  const char *only = getenv("WITNESS_ONLY"); /* the name of the program to look at: others load this too */
  if (log != NULL && (only == NULL || strcmp(program_invocation_short_name, only) == 0)) {
    witness = (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  }
}

static void note(char what, long bytes) {
  char line[32];
  int saved = errno;
  int length = what == 'S' ? snprintf(line, sizeof line, "S\n") : snprintf(line, sizeof line, "%c %ld\n", what, bytes);
  syscall(SYS_write, witness, line, (size_t)length);
  errno = saved;
}

/* Tell what a descriptor is: 'A' a file of the append-only log, 'R' a socket, 0 anything else. */
static char kind_of(int fd) {
  struct stat found;
  char link[64], path[4096];
  int saved = errno;
  char kind = 0;
  if (witness >= 0 && fd != witness && fstat(fd, &found) == 0) {
    if (S_ISSOCK(found.st_mode)) {
      kind = 'R';
    } else if (S_ISREG(found.st_mode)) {
      snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
      ssize_t length = readlink(link, path, sizeof path - 1);
      if (length > 0) {
        path[length] = 0;
        kind = strstr(path, ".incr.aof") != NULL ? 'A' : 0;
      }
    }
  }
  errno = saved;
  return kind;
}

ssize_t write(int fd, const void *data, size_t size) {
  char kind = kind_of(fd);
  if (kind == 'R') note('R', (long)size);
  ssize_t written = syscall(SYS_write, fd, data, size);
  if (kind == 'A' && written > 0) note('A', written);
  return written;
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
  char kind = kind_of(fd);
  long size = 0;
  for (int i = 0; i < count; i++) size += (long)parts[i].iov_len;
  if (kind == 'R') note('R', size);
  ssize_t written = syscall(SYS_writev, fd, parts, count);
  if (kind == 'A' && written > 0) note('A', written);
  return written;
}

ssize_t send(int fd, const void *data, size_t size, int flags) {
  if (kind_of(fd) == 'R') note('R', (long)size);
  return syscall(SYS_sendto, fd, data, size, flags, NULL, 0);
}

int fdatasync(int fd) {
  char kind = kind_of(fd);
  int failed = (int)syscall(SYS_fdatasync, fd);
  if (kind == 'A' && failed == 0) note('S', 0);
  return failed;
}

int fsync(int fd) {
  char kind = kind_of(fd);
  int failed = (int)syscall(SYS_fsync, fd);
  if (kind == 'A' && failed == 0) note('S', 0);
  return failed;
}
