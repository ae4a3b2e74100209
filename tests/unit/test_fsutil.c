/* SPDX-License-Identifier: MIT */
/* Writes that do not stop half way, reads that say where the file ends, and folders. */
#include "fsutil.h"

#include "strbuf.h"
#include "tempdir.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

static char *dir;

static void make_dir(void)
{
	dir = tempdir_new();
}

static void remove_dir(void)
{
	dir = tempdir_free(dir);
}

TestSuite(fsutil, .init = make_dir, .fini = remove_dir);

static int open_new(const char *name)
{
	CLEANUP(cleanup_free) char *path = tempdir_join(dir, name);
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	cr_assert_geq(fd, 0, "%s", strerror(errno));
	return fd;
}

static void assert_content(int fd, const char *expected, size_t len)
{
	CLEANUP(cleanup_free) char *got = calloc(1, len + 2);

	cr_assert_not_null(got);
	cr_assert_eq(fs_read_full(fd, got, len + 1, 0), (ssize_t)len);
	cr_assert_arr_eq(got, expected, len);
}

Test(fsutil, a_write_goes_whole_to_its_offset)
{
	CLEANUP(cleanup_close) int fd = open_new("f");

	cr_assert_eq(fs_write_full(fd, "world", 5, 6), 0);
	cr_assert_eq(fs_write_full(fd, "hello ", 6, 0), 0);
	cr_assert_eq(fs_write_full(fd, "", 0, 100), 0);
	assert_content(fd, "hello world", 11);
}

Test(fsutil, vectors_are_written_in_order_also_when_some_are_empty)
{
	CLEANUP(cleanup_close) int fd = open_new("f");
	char a[] = "abc";
	char b[] = "de";
	struct iovec iov[] = { { a, 0 }, { a, 3 }, { NULL, 0 }, { b, 0 }, { b, 2 },
		{ NULL, 0 } };
	struct iovec nothing[] = { { NULL, 0 }, { a, 0 } };

	cr_assert_eq(fs_writev_full(fd, iov, 6, 4), 0);
	cr_assert_eq(fs_writev_full(fd, nothing, 2, 1000), 0);
	cr_assert_eq(fs_writev_full(fd, NULL, 0, 1000), 0);
	assert_content(fd, "\0\0\0\0abcde", 9);
}

Test(fsutil, more_vectors_than_the_kernel_takes_at_once_are_written)
{
	CLEANUP(cleanup_close) int fd = open_new("f");
	size_t n = IOV_MAX + 7;
	CLEANUP(cleanup_free) struct iovec *iov = calloc(n, sizeof(*iov));
	CLEANUP(cleanup_free) char *bytes = malloc(n);

	cr_assert(iov && bytes);
	for (size_t i = 0; i < n; i++) {
		bytes[i] = (char)(i % 251);
		iov[i] = (struct iovec){ .iov_base = bytes + i, .iov_len = 1 };
	}
	cr_assert_eq(fs_writev_full(fd, iov, (int)n, 0), 0);
	assert_content(fd, bytes, n);
}

/* A file-size limit makes the kernel take a part and then refuse: the part must not pass
 * for the whole. */
static void limit_file_size(rlim_t bytes)
{
	struct rlimit limit = { bytes, bytes };

	cr_assert_neq(signal(SIGXFSZ, SIG_IGN), SIG_ERR);
	cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

Test(fsutil, a_write_that_stops_half_way_is_an_error)
{
	CLEANUP(cleanup_close) int fd = open_new("f");

	limit_file_size(1000);
	cr_assert_eq(fs_write_full(fd, (char[600]){ 0 }, 600, 0), 0);
	cr_assert_eq(fs_write_full(fd, (char[600]){ 0 }, 600, 600), -EFBIG);
}

Test(fsutil, vectors_that_stop_half_way_are_an_error)
{
	CLEANUP(cleanup_close) int fd = open_new("f");
	char part[600] = { 0 };
	struct iovec iov[] = { { part, sizeof(part) }, { part, sizeof(part) } };

	limit_file_size(1000);
	cr_assert_eq(fs_writev_full(fd, iov, 2, 0), -EFBIG);
}

Test(fsutil, errors_of_the_system_are_told)
{
	CLEANUP(cleanup_close) int read_only = open(dir, O_RDONLY | O_CLOEXEC);
	char byte = 0;
	struct iovec iov = { &byte, 1 };
	uint64_t u = 7;

	cr_assert_geq(read_only, 0);
	cr_expect_eq(fs_write_full(read_only, &byte, 1, 0), -EBADF);
	cr_expect_eq(fs_writev_full(read_only, &iov, 1, 0), -EBADF);
	cr_expect_eq(fs_read_full(-1, &byte, 1, 0), -EBADF);
	cr_expect_eq(fs_sync_data(-1), -EBADF);
	cr_expect_eq(fs_sync_folder(-1), -EBADF);
	cr_expect_eq(fs_allocated_bytes(-1, &u), -EBADF);
	cr_expect_eq(fs_free_space(-1, &u, &u), -EBADF);
	cr_expect_eq(u, 7);
}

Test(fsutil, a_read_is_short_only_at_the_end_of_the_file)
{
	CLEANUP(cleanup_close) int fd = open_new("f");
	char buf[16];

	cr_assert_eq(fs_write_full(fd, "0123456789", 10, 0), 0);
	cr_expect_eq(fs_read_full(fd, buf, 4, 3), 4);
	cr_expect_arr_eq(buf, "3456", 4);
	cr_expect_eq(fs_read_full(fd, buf, sizeof(buf), 7), 3);
	cr_expect_arr_eq(buf, "789", 3);
	cr_expect_eq(fs_read_full(fd, buf, sizeof(buf), 10), 0);
	cr_expect_eq(fs_read_full(fd, buf, sizeof(buf), 1000), 0);
	cr_expect_eq(fs_read_full(fd, buf, 0, 0), 0);
}

Test(fsutil, allocated_bytes_do_not_count_holes)
{
	CLEANUP(cleanup_close) int fd = open_new("f");
	uint64_t bytes = 0;

	cr_assert_eq(fs_write_full(fd, "x", 1, 64u << 20), 0);
	cr_assert_eq(fs_sync_data(fd), 0);
	cr_assert_eq(fs_allocated_bytes(fd, &bytes), 0);
	cr_expect_gt(bytes, 0);
	cr_expect_lt(bytes, 1u << 20);
}

Test(fsutil, free_space_is_in_bytes_and_within_the_whole)
{
	CLEANUP(cleanup_close) int fd = open_new("f");
	uint64_t available = 0;
	uint64_t total = 0;

	cr_assert_eq(fs_free_space(fd, &available, &total), 0);
	cr_expect_leq(available, total);
	cr_expect_gt(total, 1u << 20);
}

/* Folders */

static int make(const char *name)
{
	CLEANUP(cleanup_free) char *path = tempdir_join(dir, name);

	return fs_make_folder(path, 0700);
}

static bool is_folder(const char *name)
{
	CLEANUP(cleanup_free) char *path = tempdir_join(dir, name);
	struct stat st;

	return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

Test(fsutil, nested_folders_are_made_with_the_mode)
{
	CLEANUP(cleanup_free) char *path = tempdir_join(dir, "a/b/c");
	struct stat st;

	cr_assert_eq(make("a/b/c"), 0);
	cr_assert_eq(stat(path, &st), 0);
	cr_assert(S_ISDIR(st.st_mode));
	cr_assert_eq(st.st_mode & 0777, 0700);
}

Test(fsutil, folders_that_exist_are_fine)
{
	cr_assert_eq(make("a/b"), 0);
	cr_assert_eq(make("a/b"), 0);
	cr_assert_eq(make("a"), 0);
	cr_assert_eq(make("a/b/c"), 0);
	cr_assert_eq(fs_make_folder("/", 0700), 0);
	cr_assert_eq(fs_make_folder(".", 0700), 0);
}

Test(fsutil, slashes_may_be_doubled_or_trailing)
{
	cr_assert_eq(make("a//b///"), 0);
	cr_assert(is_folder("a/b"));
}

Test(fsutil, a_relative_path_is_made_below_the_present_folder)
{
	cr_assert_eq(chdir(dir), 0);
	cr_assert_eq(fs_make_folder("x/y", 0700), 0);
	cr_assert(is_folder("x/y"));
	cr_assert_eq(chdir("/"), 0);
}

Test(fsutil, a_file_in_the_way_is_an_error)
{
	tempdir_write(dir, "file", "precious");
	cr_expect_lt(make("file/below"), 0, "a file stands above");
	cr_expect_lt(make("file"), 0, "a file stands in its place");
}

Test(fsutil, a_link_to_a_folder_counts_and_one_to_nothing_does_not)
{
	CLEANUP(cleanup_free) char *good = tempdir_join(dir, "good");
	CLEANUP(cleanup_free) char *dangling = tempdir_join(dir, "dangling");

	cr_assert_eq(make("real"), 0);
	cr_assert_eq(symlink("real", good), 0);
	cr_assert_eq(symlink("nowhere", dangling), 0);
	cr_expect_eq(make("good/below"), 0);
	cr_expect(is_folder("real/below"));
	cr_expect_lt(make("dangling"), 0);
}

Test(fsutil, an_empty_path_is_an_error)
{
	/* An allocation of its own, so that a read past its end is seen. */
	CLEANUP(cleanup_free) char *path = strdup("");

	cr_assert_not_null(path);
	cr_assert_eq(fs_make_folder(path, 0700), -ENOENT);
}
