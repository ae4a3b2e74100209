/* SPDX-License-Identifier: MIT */
/* Included before everything else when src/ is built for the torture tool with small
 * sizes: what takes a daemon hundreds of megabytes (segments filled, freed and used again,
 * the memory for bodies used up) then happens within one short recording, and a start
 * looks through less. The ratios are about those of segment.h. */
#ifndef TORTURE_SMALL_SEGMENTS_H
#define TORTURE_SMALL_SEGMENTS_H

#include "segment_internal.h"

#undef SEGMENT_BYTES
#define SEGMENT_BYTES (UINT64_C(512) << 10)

#undef SEGMENT_INLINE_MAX
#define SEGMENT_INLINE_MAX (UINT64_C(64) << 10)

#undef SEGMENT_BUDGET_BYTES
#define SEGMENT_BUDGET_BYTES (UINT64_C(1) << 20)

#undef SEGMENT_SLOT_BYTES
#define SEGMENT_SLOT_BYTES (UINT64_C(8) << 10)

#endif
