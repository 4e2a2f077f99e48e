/* A stand-in for NVIDIA's NCCL, for tests without a card: floats go from one process to another over sockets of this
 * machine. As the library does, it goes on in the background, waits for another process for ever, and does not notice
 * when that dies; `ncclCommAbort` ends all of that. Where the library may do either, it does what is harder to use:
 *
 *   - the first transfer of two ranks in a direction stays in progress until both have come to it, and each second one
 *     of the others until the communicator is asked how it is; only then it is on the stream
 *   - a send is over when the other rank has received all of it
 *
 * Ranks that do not agree on how much is passed, and memory that is not the card's, end the program.
 *
 *   FAKE_NCCL_VERSION   22703 is 2.27.3
 *   FAKE_NCCL_REFUSE    the rank whose communicator fails
 *   FAKE_NCCL_STALL     the rank whose communicator never comes about
 *   FAKE_NCCL_STOP      the number of a transfer, from 1, that begins and is never over, which is said on stderr
 *   FAKE_NCCL_COUNT     a file that gets, when the program ends, how many transfers were over, and how many bytes they
 *                       passed; `-` and the rank are put behind its name
 */

#define _GNU_SOURCE /* for accept4 */
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
    SUCCESS = 0,
    CARD_ERROR = 1,
    SYSTEM_ERROR = 2,
    INVALID_ARGUMENT = 4,
    INVALID_USAGE = 5,
    IN_PROGRESS = 7,
};
enum { FLOAT32 = 7 };
enum { RANKS = 64 };

/* Where the ranks of a communicator meet. All bytes count. */
struct id {
    char bytes[128];
};

/* Settings of a communicator, as far as they are looked at; `size` is that of those which the caller knows. */
struct config {
    size_t size;
    unsigned magic, version;
    int blocking, cluster, least, most;
    const char *net;
    int shares;
};

/* A send or a receive. */
struct operation {
    int sends, peer;
    char *memory;
    uint64_t bytes;
    /* What is said before them, which is how many there are, and how much has passed of both. */
    uint64_t head, passed;
    enum { UNDER_WAY, OVER, LOST } state;
};

/* What was asked for between a start and an end of a group. */
struct group {
    struct communicator *communicator;
    struct operation *operations;
    size_t count;
    struct group *next;
};

/* How far two ranks are with what they do in a direction. */
enum met { STRANGERS, GREETED, MET };

struct communicator {
    int rank, size, device;
    struct id id;
    pthread_t thread;
    /* Over this. */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int state, is_aborted;
    /* The group that is not on the stream yet, and those that are. */
    struct group *coming, *first;
    unsigned long groups;
    /* To and from each rank: `[1]` is what this rank sends by. */
    int sockets[2][RANKS];
    enum met met[2][RANKS];
    /* Can be read from once this is aborted. */
    int aborted;
};

/* What the driver's stand-in says of the stream and of memory. */
static struct {
    int (*current)(void);
    int (*holds)(const void *address, size_t bytes);
    void (*begin)(void), (*end)(void);
} card;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned long begun, transfers, bytes_passed;
static int own_rank = -1;
static const char *_Atomic said = "";

static long long setting(const char *name, long long otherwise) {
    const char *text = getenv(name);
    return text ? atoll(text) : otherwise;
}

__attribute__((destructor)) static void count(void) {
    const char *prefix = getenv("FAKE_NCCL_COUNT");
    if (!prefix || own_rank < 0) return;
    char name[4096];
    snprintf(name, sizeof name, "%s-%d", prefix, own_rank);
    FILE *file = fopen(name, "w");
    if (!file) return;
    fprintf(file, "{\"transfers\": %lu, \"bytes\": %lu}\n", transfers, bytes_passed);
    fclose(file);
}

static void fail_unless(int is_right, const char *sentence) {
    if (is_right) return;
    fprintf(stderr, "the stand-in for NCCL: %s\n", sentence);
    abort();
}

/* Keeps why a function fails. */
static int failed(int error, const char *why) {
    said = why;
    return error;
}

int ncclGetVersion(int *version) {
    *version = setting("FAKE_NCCL_VERSION", 22703);
    return SUCCESS;
}

const char *ncclGetErrorString(int error) {
    switch (error) {
    case SUCCESS: return "no error";
    case CARD_ERROR: return "unhandled cuda error";
    case SYSTEM_ERROR: return "unhandled system error";
    case INVALID_ARGUMENT: return "invalid argument";
    case INVALID_USAGE: return "invalid usage";
    case IN_PROGRESS: return "in progress";
    default: return "unknown result code";
    }
}

const char *ncclGetLastError(struct communicator *communicator) {
    (void)communicator;
    return said;
}

/* Who keeps only the text before the zero has another id. */
static char filler(size_t at) { return (char)(at * 37 + 1); }

int ncclGetUniqueId(struct id *id) {
    static unsigned number;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    for (size_t i = 0; i < sizeof id->bytes; i++) id->bytes[i] = filler(i);
    pthread_mutex_lock(&lock);
    unsigned own = number++;
    pthread_mutex_unlock(&lock);
    snprintf(id->bytes, 64, "fake-nccl-%d-%u-%lld-%ld", (int)getpid(), own, (long long)now.tv_sec, now.tv_nsec);
    return SUCCESS;
}

static int is_whole(const struct id *id) {
    for (size_t i = strnlen(id->bytes, 64) + 1; i < sizeof id->bytes; i++)
        if (id->bytes[i] != filler(i)) return 0;
    return 1;
}

/* Sockets with a name of their own, of which nothing is left when a process dies. */
static socklen_t address(const struct id *id, int rank, struct sockaddr_un *address) {
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    int length = snprintf(address->sun_path + 1, sizeof address->sun_path - 1, "%s-%d", id->bytes, rank);
    return offsetof(struct sockaddr_un, sun_path) + 1 + length;
}

/* Says how the communicator is from now on. */
static void become(struct communicator *c, int state, const char *why) {
    pthread_mutex_lock(&c->lock);
    if (state != SUCCESS) said = why;
    c->state = state;
    pthread_mutex_unlock(&c->lock);
}

/* Waits until the communicator is aborted, or for so many milliseconds; returns whether it is. */
static int wait_for_abort(struct communicator *c, int milliseconds) {
    struct pollfd aborted = {c->aborted, POLLIN, 0};
    return poll(&aborted, 1, milliseconds) > 0;
}

/* What a rank says when it comes to another one. */
struct hello {
    int rank, device;
};

/* Waits for all ranks, so that there is a way to and from each. */
static void meet(struct communicator *c) {
    struct sockaddr_un own, theirs;
    socklen_t length = address(&c->id, c->rank, &own);
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (bind(listener, (struct sockaddr *)&own, length) || listen(listener, RANKS)) {
        become(c, INVALID_USAGE, "this rank is there twice");
        close(listener);
        return;
    }
    int missing = 2 * (c->size - 1), same_device = 0;
    while (missing && !wait_for_abort(c, 1)) {
        for (int rank = 0; rank < c->size; rank++) {
            if (rank == c->rank || c->sockets[1][rank] >= 0) continue;
            length = address(&c->id, rank, &theirs);
            int way = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
            struct hello hello = {c->rank, c->device};
            if (connect(way, (struct sockaddr *)&theirs, length) == 0 &&
                send(way, &hello, sizeof hello, MSG_NOSIGNAL) == sizeof hello) {
                c->sockets[1][rank] = way;
                missing--;
            } else
                close(way);
        }
        for (int way; (way = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0;) {
            struct hello hello;
            if (recv(way, &hello, sizeof hello, MSG_WAITALL) != sizeof hello) {
                close(way);
                continue;
            }
            c->sockets[0][hello.rank] = way;
            same_device |= hello.device == c->device;
            missing--;
        }
    }
    close(listener);
    if (missing) return;
    if (same_device) become(c, INVALID_USAGE, "two ranks have the same device");
    else become(c, SUCCESS, "");
}

/* Passes what can be passed of some bytes without waiting, and returns how many those are. */
static uint64_t some(struct operation *o, int socket, int sends, void *bytes, uint64_t count) {
    int flags = MSG_DONTWAIT | MSG_NOSIGNAL;
    ssize_t passed = sends ? send(socket, bytes, count, flags) : recv(socket, bytes, count, flags);
    if (passed > 0) return passed;
    /* Nobody is told that the other process has died. */
    if (passed == 0 || (errno != EAGAIN && errno != EINTR)) o->state = LOST;
    return 0;
}

/* Goes on with an operation as far as that is possible; returns whether it was, and in `events` what it waits for. */
static int go_on(struct operation *o, int socket, short *events) {
    uint64_t before = o->passed;
    uint64_t all = sizeof o->head + o->bytes;
    while (o->state == UNDER_WAY) {
        uint64_t at = o->passed, passed;
        if (at < sizeof o->head)
            passed = some(o, socket, o->sends, (char *)&o->head + at, sizeof o->head - at);
        else if (at < all)
            passed = some(o, socket, o->sends, o->memory + (at - sizeof o->head), all - at);
        else {
            /* The receiver says that it has all of it. */
            char has = 0;
            passed = some(o, socket, !o->sends, &has, 1);
        }
        if (!passed) break;
        o->passed += passed;
        if (!o->sends && at < sizeof o->head && o->passed >= sizeof o->head)
            fail_unless(o->head == o->bytes, "a rank receives another number of floats than is sent to it");
        if (o->passed > all) o->state = OVER;
    }
    *events = (o->passed < all) == o->sends ? POLLOUT : POLLIN;
    return o->passed > before;
}

/* Passes what a group asks for, each with the others but for those of the same two ranks in the same direction, which
 * go one after the other; returns when all of it is over, or the communicator aborted. */
static void pass(struct communicator *c, struct group *group) {
    for (;;) {
        struct pollfd waits[1 + 2 * RANKS] = {{c->aborted, POLLIN, 0}};
        char is_taken[2][RANKS] = {};
        int left = 0, moved = 0, count = 1;
        for (struct operation *o = group->operations; o < group->operations + group->count; o++) {
            if (o->state == OVER || is_taken[o->sends][o->peer]) continue;
            left++, is_taken[o->sends][o->peer] = 1;
            short events;
            int socket = c->sockets[o->sends][o->peer];
            moved |= go_on(o, socket, &events);
            if (o->state == UNDER_WAY) waits[count++] = (struct pollfd){socket, events, 0};
        }
        if (!left) break;
        poll(waits, count, moved ? 0 : -1);
        if (waits[0].revents) return;
    }
    pthread_mutex_lock(&lock);
    transfers++;
    for (size_t i = 0; i < group->count; i++) bytes_passed += group->operations[i].bytes;
    pthread_mutex_unlock(&lock);
}

/* Whether the transfer that begins is ever over. */
static int ends(void) {
    pthread_mutex_lock(&lock);
    long long number = ++begun;
    pthread_mutex_unlock(&lock);
    if (number != setting("FAKE_NCCL_STOP", 0)) return 1;
    fprintf(stderr, "the stand-in for NCCL: transfer %lld is never over\n", number);
    return 0;
}

static void discard(struct group *group) {
    if (group) free(group->operations);
    free(group);
}

/* Waits for a group on the stream; none once the communicator is aborted and no group is left. */
static struct group *next(struct communicator *c) {
    pthread_mutex_lock(&c->lock);
    while (!c->first && !c->is_aborted) pthread_cond_wait(&c->changed, &c->lock);
    struct group *group = c->first;
    if (group) c->first = group->next;
    pthread_mutex_unlock(&c->lock);
    return group;
}

/* What is done in the background. */
static void *background(void *communicator) {
    struct communicator *c = communicator;
    if (setting("FAKE_NCCL_REFUSE", -1) == c->rank) become(c, SYSTEM_ERROR, "the stand-in refuses this rank");
    else if (setting("FAKE_NCCL_STALL", -1) != c->rank) meet(c);
    for (struct group *group; (group = next(c)); discard(group)) {
        if (ends()) pass(c, group);
        else wait_for_abort(c, -1);
        card.end();
    }
    return NULL;
}

/* Whether these are settings of a communicator that does not block, and has no other wishes. */
static int is_right(const struct config *config) {
    if (!config || config->size < offsetof(struct config, cluster) || config->magic != 0xcafebeef) return 0;
    /* In older ones the field means nothing. */
    if (config->version < 21400 || config->blocking != 0) return 0;
#define KNOWS(field) (config->size >= offsetof(struct config, field) + sizeof config->field)
#define IS(field, unset) (!KNOWS(field) || config->field == unset)
    return IS(cluster, INT_MIN) && IS(least, INT_MIN) && IS(most, INT_MIN) && IS(net, NULL) && IS(shares, INT_MIN);
}

static int has_card(void) {
    void *driver = dlopen("libcuda.so.1", RTLD_NOW);
    if (!driver) return 0;
    card.current = (int (*)(void))dlsym(driver, "card_current");
    card.holds = (int (*)(const void *, size_t))dlsym(driver, "card_holds");
    card.begin = (void (*)(void))dlsym(driver, "card_begin");
    card.end = (void (*)(void))dlsym(driver, "card_end");
    return card.current && card.holds && card.begin && card.end;
}

int ncclCommInitRankConfig(struct communicator **communicator, int size, struct id id, int rank,
                           struct config *config) {
    if (!communicator || size < 1 || size > RANKS || rank < 0 || rank >= size)
        return failed(INVALID_ARGUMENT, "there is no such rank");
    if (!is_whole(&id)) return failed(INVALID_ARGUMENT, "this is no id");
    if (!is_right(config)) return failed(INVALID_ARGUMENT, "these are no settings of one that does not block");
    if (!has_card() || card.current() < 0) return failed(CARD_ERROR, "no device is current");
    struct communicator *c = calloc(1, sizeof *c);
    *c = (struct communicator){.rank = rank, .size = size, .device = card.current(), .id = id, .state = IN_PROGRESS};
    memset(c->sockets, -1, sizeof c->sockets);
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->changed, NULL);
    c->aborted = eventfd(0, EFD_CLOEXEC);
    own_rank = rank;
    if (pthread_create(&c->thread, NULL, background, c)) return failed(SYSTEM_ERROR, "no thread can be made");
    *communicator = c;
    return IN_PROGRESS;
}

int ncclCommAbort(struct communicator *c) {
    if (!c) return failed(INVALID_ARGUMENT, "there is no communicator");
    pthread_mutex_lock(&c->lock);
    c->is_aborted = 1;
    eventfd_write(c->aborted, 1);
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
    pthread_join(c->thread, NULL);
    discard(c->coming);
    for (int rank = 0; rank < RANKS; rank++)
        for (int sends = 0; sends < 2; sends++)
            if (c->sockets[sends][rank] >= 0) close(c->sockets[sends][rank]);
    close(c->aborted);
    free(c);
    return SUCCESS;
}

/* Has a rank say, once for each direction, that it has come to a transfer; returns whether the other one has too. */
static int have_met(struct communicator *c, int sends, int peer) {
    enum met *met = &c->met[sends][peer];
    int socket = c->sockets[sends][peer];
    char byte = 0;
    if (*met == STRANGERS && send(socket, &byte, 1, MSG_DONTWAIT | MSG_NOSIGNAL) == 1) *met = GREETED;
    if (*met == GREETED && recv(socket, &byte, 1, MSG_DONTWAIT) == 1) *met = MET;
    return *met == MET;
}

/* Puts the group that is coming on the stream if it can be; the lock is held. */
static void put_on_stream(struct communicator *c) {
    struct group *group = c->coming, **last = &c->first;
    int all = 1;
    for (size_t i = 0; i < group->count; i++)
        all &= have_met(c, group->operations[i].sends, group->operations[i].peer);
    if (!all) return;
    while (*last) last = &(*last)->next;
    *last = group;
    c->coming = NULL;
    c->state = SUCCESS;
    card.begin();
    pthread_cond_broadcast(&c->changed);
}

int ncclCommGetAsyncError(struct communicator *c, int *state) {
    if (!c || !state) return failed(INVALID_ARGUMENT, "there is no communicator");
    pthread_mutex_lock(&c->lock);
    if (c->coming) put_on_stream(c);
    *state = c->state;
    pthread_mutex_unlock(&c->lock);
    return SUCCESS;
}

/* The group of this thread that has been started and not ended, and the first failure in it. */
static _Thread_local struct group *own;
static _Thread_local int depth, failure;

int ncclGroupStart(void) {
    depth++;
    return SUCCESS;
}

/* Fails, and has the end of the group fail too. */
static int fail_group(const char *why) { return failure = failed(INVALID_ARGUMENT, why); }

static int add(int sends, const void *memory, size_t count, int type, int peer, struct communicator *c) {
    if (!depth) return failed(INVALID_USAGE, "a transfer is of a group");
    if (!c || type != FLOAT32 || peer < 0 || peer >= c->size || peer == c->rank || (own && own->communicator != c))
        return fail_group("floats are passed to another rank of one communicator");
    pthread_mutex_lock(&c->lock);
    int state = c->state;
    pthread_mutex_unlock(&c->lock);
    if (state != SUCCESS) return fail_group("the communicator is not ready");
    uint64_t bytes = count * sizeof(float);
    fail_unless(card.holds(memory, bytes), "what is passed is not memory of the card");
    if (!own) (own = calloc(1, sizeof *own))->communicator = c;
    own->operations = realloc(own->operations, (own->count + 1) * sizeof *own->operations);
    struct operation asked = {sends, peer, (char *)memory, bytes, sends ? bytes : 0, 0, UNDER_WAY};
    own->operations[own->count++] = asked;
    return SUCCESS;
}

int ncclSend(const void *memory, size_t count, int type, int peer, struct communicator *c, void *stream) {
    (void)stream;
    return add(1, memory, count, type, peer, c);
}

int ncclRecv(void *memory, size_t count, int type, int peer, struct communicator *c, void *stream) {
    (void)stream;
    return add(0, memory, count, type, peer, c);
}

int ncclGroupEnd(void) {
    if (!depth) return failed(INVALID_USAGE, "no group was started");
    if (--depth) return SUCCESS;
    struct group *group = own;
    int result = failure;
    own = NULL, failure = SUCCESS;
    if (!group || result) return discard(group), result;
    struct communicator *c = group->communicator;
    pthread_mutex_lock(&c->lock);
    c->coming = group;
    c->state = IN_PROGRESS;
    int is_new = 0;
    for (size_t i = 0; i < group->count; i++) {
        struct operation *o = &group->operations[i];
        is_new |= c->met[o->sends][o->peer] == STRANGERS;
        have_met(c, o->sends, o->peer);
    }
    if (!is_new && c->groups++ % 2) put_on_stream(c);
    result = c->state;
    pthread_mutex_unlock(&c->lock);
    return result;
}
