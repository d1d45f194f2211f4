/* mailbox.h - an intrusive lock-free queue from one or more senders to one receiver.
 *
 * A Treiber stack that the receiver takes whole and reverses, so letters come out in the order they went in. A node
 * that is already in the box is not put in twice: `queued` is set by the sender that wins and cleared by the receiver
 * before it looks at the letter's state, so that news arriving meanwhile queue it again. Nothing allocates. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

struct mail {
    struct mail *next;
    atomic_bool queued;
};

struct mailbox {
    _Atomic(struct mail *) head;
};

/* Any thread. What the sender wrote before is visible to the receiver of the letter. */
static inline void mailbox_put(struct mailbox *box, struct mail *m) {
    if (atomic_exchange(&m->queued, true)) return; /* already in the box, not yet opened */
    struct mail *head = atomic_load_explicit(&box->head, memory_order_relaxed);
    do m->next = head;
    while (!atomic_compare_exchange_weak(&box->head, &head, m));
}

/* The receiver: every letter, oldest first, linked by next. Open each with mail_open, which returns the next one. */
static inline struct mail *mailbox_take(struct mailbox *box) {
    struct mail *m = atomic_exchange(&box->head, NULL), *list = NULL;
    while (m) {
        struct mail *next = m->next;
        m->next = list;
        list = m;
        m = next;
    }
    return list;
}

static inline struct mail *mail_open(struct mail *m) {
    struct mail *next = m->next; /* before queued is cleared: then the node may be linked anew */
    atomic_store(&m->queued, false);
    return next;
}

static inline bool mailbox_empty(struct mailbox *box) {
    return atomic_load(&box->head) == NULL;
}
