/* What is captured on a stream is done when the graph that was made of it is launched, and not before. As on a real card,
 * what memory and arguments were then is kept, and what lies in memory is what lies there at the launch. A thread that
 * captures may ask for launches and products alone: copies, memory, waiting and choosing an algorithm are refused, of which a
 * real card may take some.
 *
 *   FAKE_CUDA_GRAPHS   0: the driver makes no graphs
 */

#include "graph.h"

#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID = 1, OUT_OF_MEMORY = 2, NOT_SUPPORTED = 801, NOT_CAPTURED = 901 };

struct node {
    int (*ask)(const void *asked);
    void *asked;
    size_t bytes;
    struct node *next;
};

struct graph {
    struct node *first, **end;
    int broken;
};

struct stream {
    struct graph *captured;
};

/* Streams that this thread captures. */
static _Thread_local int capturing;

static unsigned long launched;

unsigned long card_graphs(void) { return launched; }

int card_capturing(void) { return capturing > 0; }

int cuStreamCreate(struct stream **stream, unsigned flags) {
    (void)flags;
    *stream = calloc(1, sizeof **stream);
    return *stream ? SUCCESS : OUT_OF_MEMORY;
}

int cuStreamDestroy_v2(struct stream *stream) {
    free(stream);
    return SUCCESS;
}

int cuStreamBeginCapture_v2(struct stream *stream, int mode) {
    (void)mode;
    if (stream->captured) return INVALID;
    struct graph *graph = calloc(1, sizeof *graph);
    if (!graph) return OUT_OF_MEMORY;
    graph->end = &graph->first;
    stream->captured = graph;
    capturing++;
    return SUCCESS;
}

int card_capture(void *of, int (*ask)(const void *), const void *asked, size_t bytes) {
    struct graph *graph = ((struct stream *)of)->captured;
    if (!graph) return 0;
    struct node *node = malloc(sizeof *node);
    void *kept = malloc(bytes);
    if (!node || !kept) {
        free(node), free(kept);
        graph->broken = 1;
        return 1;
    }
    memcpy(kept, asked, bytes);
    *node = (struct node){ask, kept, bytes, NULL};
    *graph->end = node;
    graph->end = &node->next;
    return 1;
}

int cuStreamEndCapture(struct stream *stream, struct graph **graph) {
    if (!stream->captured) return NOT_CAPTURED;
    *graph = stream->captured;
    stream->captured = NULL;
    capturing--;
    return (*graph)->broken ? OUT_OF_MEMORY : SUCCESS;
}

/* What is executed is a copy. */
int cuGraphInstantiateWithFlags(struct graph **executable, const struct graph *graph, unsigned long long flags) {
    (void)flags;
    const char *makes = getenv("FAKE_CUDA_GRAPHS");
    if (makes && atoi(makes) == 0) return NOT_SUPPORTED;
    struct stream stream = {NULL};
    int failed = cuStreamBeginCapture_v2(&stream, 0);
    if (failed) return failed;
    for (const struct node *node = graph->first; node; node = node->next)
        card_capture(&stream, node->ask, node->asked, node->bytes);
    return cuStreamEndCapture(&stream, executable);
}

static int destroy(struct graph *graph) {
    for (struct node *node = graph->first, *next; node; node = next) {
        next = node->next;
        free(node->asked);
        free(node);
    }
    free(graph);
    return SUCCESS;
}

int cuGraphDestroy(struct graph *graph) { return destroy(graph); }
int cuGraphExecDestroy(struct graph *executable) { return destroy(executable); }

int cuGraphLaunch(const struct graph *executable, struct stream *stream) {
    if (stream->captured) return INVALID;
    launched++;
    for (const struct node *node = executable->first; node; node = node->next) {
        int failed = node->ask(node->asked);
        if (failed) return failed;
    }
    return SUCCESS;
}
