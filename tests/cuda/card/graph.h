/* Streams of the driver that stands in for NVIDIA's, and what is captured on them. */

#include <stddef.h>

/* Has a stream that is captured note what it is asked, of which it keeps so many bytes, for `ask` to do at each launch of
 * the graph; returns 0, and notes nothing, where it is not captured. */
int card_capture(void *stream, int (*ask)(const void *asked), const void *asked, size_t bytes);

/* Whether this thread captures a stream, and so may not ask for all that there is. */
int card_capturing(void);

/* How often a graph was launched. */
unsigned long card_graphs(void);
