// What C++ has no words for: single instructions, and shared memory whose size a launch gives.
//
// Tests run the kernels on the processor too; there `tests/cuda/card/machine.h` has the same functions.
#pragma once

// The shared memory of the launch.
extern __shared__ float dynamic[];

// Four 8 by 8 tiles out of shared memory; each lane gives the address of one row of one of them.
__device__ __forceinline__ void load_four(uint32_t (&r)[4], const Half *row) {
    uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at));
}

// The same, each tile turned.
__device__ __forceinline__ void load_four_turned(uint32_t (&r)[4], const Half *row) {
    uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at));
}

// c[16, 8] += a[16, 16] · b[16, 8].
__device__ __forceinline__ void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Copies 16 bytes into shared memory while the block goes on; zeros where there is nothing.
__device__ __forceinline__ void copy_ahead(Half *to, const Half *from, bool there) {
    uint32_t at = (uint32_t)__cvta_generic_to_shared(to);
    int bytes = there ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(bytes));
}

// The same, kept in the first cache: what other warps of this processor copy too.
__device__ __forceinline__ void copy_ahead_cached(Half *to, const Half *from, bool there) {
    uint32_t at = (uint32_t)__cvta_generic_to_shared(to);
    int bytes = there ? 16 : 0;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(bytes));
}

// Ends a group of this thread's copies.
__device__ __forceinline__ void end_copies() { asm volatile("cp.async.commit_group;"); }

// Waits until all groups of this thread's copies are there but the last ones.
template <int LAST> __device__ __forceinline__ void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(LAST));
}
