/* prefix_cache.h - finding KV blocks by the tokens in them, and by all tokens before them.
 *
 * A full block is published under the key
 *
 *     (model, salt, parent, ids[P])        parent: the serial of the block before it, 0 for a sequence's first block
 *
 * and gets a serial: a number that no other block ever had or will have. A serial therefore stands for one exact
 * history of tokens, and a lookup that compares parent and ids compares the whole prefix, block by block. The hash
 * (XXH3) only says where to look: a collision costs a comparison, it cannot mix content or tenants.
 *
 * A sequence follows the chain: it keeps the serial of its last full block (0 before the first) and publishes the next
 * one under it. When an identical block is already published, the new one stays private (it has readers), and the
 * chain continues from the published one's serial.
 *
 * When a parent is evicted before its child, the child can no longer be found: it ages out like any other. */
#pragma once

#include "engine/kv_pool.h"

/* The longest run of published blocks that begins a token list. */
struct prefix_match {
    int n_blocks;
    int n_cached;    /* of these, held by nobody now: taking them lowers kv_pool_available by so many */
    uint64_t serial; /* of the last one; 0 when none */
};

/* Matches the full blocks of tokens[0 .. n_tokens-1]; changes nothing. blocks: room for n_tokens / P first granules,
 * of which match.n_blocks are filled. */
struct prefix_match prefix_find(const struct kv_pool *p, int model, uint64_t salt, const int32_t *tokens, int n_tokens,
                                int32_t *blocks);

/* Takes a reference on each block of a match that was just found. n_query_tokens: how many tokens were asked for, for
 * the statistics; 0 leaves them alone (a preempted sequence that finds itself again says nothing about reuse). */
void prefix_take(struct kv_pool *p, int model, const struct prefix_match *match, const int32_t *blocks,
                 int n_query_tokens);

/* Publishes a used block that holds ids [P]; returns the serial with which the chain goes on. */
uint64_t prefix_publish(struct kv_pool *p, int32_t granule, uint64_t salt, uint64_t parent, const int32_t *ids);

/* ---- shared with kv_pool.c --------------------------------------------------------------------------------------- */

void prefix__forget(struct kv_pool *p, int32_t block); /* takes an evicted block (index) out of the table */
void prefix__check(const struct kv_pool *p);               /* CHECKs the table; for kv_pool_check */
