/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of a channel, shared by chan*.c. See chan.c for who does what. */
#ifndef SNAP_NET_CHAN_PRIV_H
#define SNAP_NET_CHAN_PRIV_H

#include "common/net/chan.h"
#include "common/net/tls.h"

#include <sys/queue.h>

enum {
    CHAN_RECORD_BYTES = 16384,       /* the most that one TLS record carries */
    CHAN_INLINE_BYTES = 4096,        /* a payload up to this travels in its header's record */
    CHAN_TURN_BYTES = 512 * 1024,    /* read, and written, before others get their turn */
    CHAN_HELLO_CONTROL_BYTES = 4096, /* HELLO and GOAWAY are small, whatever the limits say */
    CHAN_HELD_CONTROL_BYTES = 8 * 1024 * 1024, /* control of frames not given back: then rest */
    CHAN_RATE_MIN = 64, /* bytes a millisecond that a long frame must come in at, after its time */
    CHAN_PONGS_MAX = 16,
    CHAN_LINGER_MS = 1000,
    CHAN_STARVED_RETRY_MS = 10,
};

enum chan_state {
    CHAN_CONNECTING, /* client: connect() is under way */
    CHAN_TLS,
    CHAN_HELLO,
    CHAN_UP,
    CHAN_DRAINING, /* chan_close(): what is queued goes out, what comes in is dropped */
    CHAN_ABORTING, /* why is known; the end begins with the next hook */
    CHAN_LINGER,   /* our direction is shut; the peer may still read what we said last */
    CHAN_DOWN,     /* nothing left but the last call, from the next hook */
};

/* A received frame and what the channel keeps beside it; control follows in memory. */
struct frame_in {
    struct chan_frame pub;
    LIST_ENTRY(frame_in) held;
    uint8_t control[];
};

/* A frame to be sent. Its pieces: the head (header and control), then the iovecs. */
struct frame_out {
    STAILQ_ENTRY(frame_out) link;
    void (*released)(void *user);
    void *user;
    uint32_t head_bytes;
    uint32_t payload_bytes;
    uint8_t *head; /* behind iov, in this allocation */
    unsigned iov_count;
    struct iovec iov[];
};

enum rx_phase { RX_HEADER, RX_CONTROL, RX_BUFFER /* wait for memory */, RX_PAYLOAD };

struct chan_rx {
    enum rx_phase phase;
    uint32_t got; /* bytes of the phase at hand */
    struct frame_header header;
    struct frame_in *frame; /* from RX_CONTROL on */
    uint64_t credit;        /* payload bytes the peer may still send */
    uint64_t owed;          /* credit to be granted anew */
    LIST_HEAD(, frame_in) held;
    unsigned held_count;
    uint64_t held_payload_bytes, held_control_bytes;
    struct frame_in *at_hand; /* inside ops.frame */
    unsigned pos, len;        /* what of buf is unread */
    uint8_t raw[FRAME_HEADER_BYTES];
    uint8_t buf[CHAN_RECORD_BYTES];
};

struct chan_tx {
    STAILQ_HEAD(out_list, frame_out) queue;
    size_t queued_bytes;
    bool above_mark;
    struct frame_out *body; /* its head is staged; its pieces follow the stage */
    unsigned piece;         /* of body; 0 is the head */
    size_t piece_pos;
    uint64_t credit;    /* payload bytes the peer still takes */
    bool blocked;       /* the socket takes no more */
    uint64_t sent_then; /* chan_io_sent_bytes() at tx_since */
    bool dead;          /* a write failed; only the peer's last words are waited for */
    struct err dead_why;
    uint64_t pongs[CHAN_PONGS_MAX];
    unsigned pong_count;
    bool ping_wanted;
    bool hello_wanted;
    unsigned pos, len; /* what of stage is unsent */
    uint8_t stage[CHAN_RECORD_BYTES];
};

struct chan {
    struct loop *loop; /* NULL: detached */
    int fd;
    bool server, local;
    enum chan_state state;
    enum chan_state was;       /* before CHAN_ABORTING */
    struct chan_config config; /* every default filled in */
    char software[65];
    struct chan_ops ops;
    void *user;
    struct chan_peer peer;
    uint64_t peer_window_bytes;
    struct tls_session *tls; /* NULL: plain */
    uint64_t plain_sent_bytes;
    struct err why;
    struct err goaway; /* code 0: none came */
    bool user_paused;
    bool read_more;  /* something is there that no poll tells of, or a turn's share was used */
    bool share_used; /* of reading, in this turn */
    bool rests;      /* a handler has had enough for this turn */
    bool read_wants_write; /* TLS: going on reading needs a writable socket, and … */
    bool write_wants_read; /* … the other way round */
    bool eof;
    unsigned requests_open; /* client: unanswered by the peer; server: unanswered by us */
    struct loop_io io;
    struct loop_timer timer;
    struct loop_hook hook;
    bool hooked;
    bool *detached; /* set by chan_detach() inside a callback */
    /* times in ms; 0: not running */
    uint64_t armed_at, handshake_until, rx_until, tx_since, credit_since, dead_until, linger_until;
    uint64_t heard_at;  /* the peer's latest byte */
    uint64_t pinged_at; /* our question that is unanswered */
    int ping_outq;      /* bytes the socket still held then */
    struct chan_rx rx;
    struct chan_tx tx;
};

/* chan.c */
uint64_t chan_now_ms(void);
void chan_kick(struct chan *c); /* the hook runs before the loop sleeps */
void chan_went_up(struct chan *c);
void chan_leave_loop(struct chan *c);

/* chan_end.c */
/* Like chan_abort(); for what is known here. */
void chan_fail(struct chan *c, const struct err *why);
/* Reading ended or broke: find the best reason and abort. */
void chan_fail_read(struct chan *c, const struct err *why);
/* Writing broke: the peer may have said why; read on to find out. */
void chan_fail_write(struct chan *c, const struct err *why);
void chan_shut(struct chan *c);        /* ABORTING: to LINGER or DOWN */
void chan_linger_read(struct chan *c); /* throw away what still comes, until the peer closes */
void chan_go_down(struct chan *c);     /* the last call; frees */
void chan_destroy(struct chan *c);     /* one that never lived; frees */

/* chan_time.c */
void chan_arm(struct chan *c, uint64_t at_ms);
void chan_timer_fn(void *user);
void chan_heard(struct chan *c);       /* bytes came */
void chan_pinged(struct chan *c);      /* a PING is on its way */
void chan_note_credit(struct chan *c); /* is the queue waiting for credit now? */

/* chan_read.c */
bool chan_may_read(const struct chan *c);
/* Sets *detached when a handler detached the channel: it is another thread's by now. */
void chan_read(struct chan *c, bool *detached);
void chan_rx_retry_buffer(struct chan *c); /* in RX_BUFFER */
void chan_rx_done(struct chan *c);
bool chan_window_due(const struct chan *c);

/* chan_write.c */
bool chan_tx_has_work(const struct chan *c);
void chan_flush(struct chan *c);
/* Put a frame of the channel's own behind what is staged. false: no room. */
bool chan_stage_frame(struct chan *c, const struct frame_header *h, const uint8_t *control);
void chan_tx_release_all(struct chan *c);

/* chan_hello.c */
bool chan_stage_hello(struct chan *c);
int chan_take_hello(struct chan *c, const uint8_t *control, size_t len,
                    struct err *reterr) SNAP_WUR;
bool chan_stage_goaway(struct chan *c, const struct err *why);
void chan_take_goaway(struct chan *c, const uint8_t *control, size_t len);

/* chan_io.c */
int chan_io_setup(struct chan *c, struct err *reterr) SNAP_WUR;
/* Has connect() come through? Also learns the peer's address. */
int chan_io_connected(struct chan *c, struct err *reterr) SNAP_WUR;
/* As tls_read() and tls_write(); with TLS only the first piece is used. */
ssize_t chan_io_readv(struct chan *c, const struct iovec *iov, int count,
                      struct err *reterr) SNAP_WUR;
ssize_t chan_io_writev(struct chan *c, const struct iovec *iov, int count,
                       struct err *reterr) SNAP_WUR;
/* TLS gathers what is written. 0: the socket has all of it; TLS_WANT_WRITE; SNAP_E…. */
int chan_io_flush(struct chan *c, struct err *reterr) SNAP_WUR;
size_t chan_io_unsent_bytes(const struct chan *c); /* gathered */
uint64_t chan_io_sent_bytes(const struct chan *c); /* what the socket ever took */

#endif
