// What the driver that stands in for NVIDIA's calls to run a kernel.
#ifdef __cplusplus
extern "C" {
#endif

struct kernel {
    const char *name;
    void (*call)(void **arguments);
    unsigned arguments; // how many
};

// The kernel of a name; none where the sources have none.
const struct kernel *card_kernel(const char *name);

// Runs a kernel; returns 0, or 1 where it failed, and says why.
int card_launch(const struct kernel *kernel, const unsigned grid[3], const unsigned threads[3], unsigned shared,
                void **arguments, unsigned long order);

#ifdef __cplusplus
}
#endif
