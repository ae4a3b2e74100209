/* SPDX-License-Identifier: MIT */
/* Owns what may be given back at all. After start-up most of what is resident are pages
 * of the nearly 40 libraries that dynamic linking and initialisers touched once: clean
 * pages of files, also in the page cache, so to drop one costs little and to use it again
 * one minor fault. The idle daemon goes from 11 MiB to 5 in a third of a millisecond; the
 * first report afterwards takes some tenths of one longer.
 *
 * Invariant: only pages that were never written to are dropped, for a private page that
 * was written to would come back as it is in the file, without relocations.
 */
#include "trim.h"

#include "cleanup.h"

#include <link.h>
#include <malloc.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/auxv.h>
#include <sys/mman.h>

/* Sanitizers keep maps of the libraries' pages beside them and count on their own mappings
 * to stay as they are; their memory means nothing anyway. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) ||               \
    __has_feature(memory_sanitizer)
#define SANITIZED 1
#endif
#endif

#ifndef SANITIZED

/* Whether the object was relocated in its text (old hand-written assembly): the linker
 * made those pages writable for a moment, and they differ from the file. */
static bool has_relocated_text(const struct dl_phdr_info *info)
{
	for (unsigned i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *p = &info->dlpi_phdr[i];
		const ElfW(Dyn) * d;

		if (p->p_type != PT_DYNAMIC)
			continue;
		/* NOLINTNEXTLINE(performance-no-int-to-ptr): how ELF says where it is */
		d = (const ElfW(Dyn) *)(info->dlpi_addr + p->p_vaddr);
		for (; d->d_tag != DT_NULL; d++)
			if (d->d_tag == DT_TEXTREL ||
			    (d->d_tag == DT_FLAGS && (d->d_un.d_val & DF_TEXTREL)))
				return true;
	}
	return false;
}

/* The whole pages inside a segment. What shares a page with a neighbour stays. */
static void drop_segment(uintptr_t start, uintptr_t end, uintptr_t page)
{
	start = (start + page - 1) & ~(page - 1);
	end &= ~(page - 1);
	/* Fails where pages are locked in memory: then they stay. */
	if (start < end)
		/* NOLINTNEXTLINE(performance-no-int-to-ptr) */
		(void)madvise((void *)start, end - start, MADV_DONTNEED);
}

/* RELRO lies in segments that have PF_W, so whatever the linker wrote to does. */
static int drop_object(struct dl_phdr_info *info, size_t size, void *cls)
{
	const uintptr_t *page = cls;

	(void)size;
	/* The kernel's own object is no file. */
	if (info->dlpi_addr == getauxval(AT_SYSINFO_EHDR) || has_relocated_text(info))
		return 0;
	for (unsigned i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *p = &info->dlpi_phdr[i];
		uintptr_t start = info->dlpi_addr + p->p_vaddr;

		if (p->p_type == PT_LOAD && !(p->p_flags & PF_W))
			drop_segment(start, start + p->p_filesz, *page);
	}
	return 0;
}

static void drop_text(void)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);

	(void)dl_iterate_phdr(drop_object, &page);
}

#else

static void drop_text(void)
{
}

#endif

void trim_memory(void)
{
	(void)malloc_trim(0); /* whether there was any does not matter */
	drop_text();
}
