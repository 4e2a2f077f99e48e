// The language of the kernels for a processor, in the place of NVIDIA's headers: what `kernels.cu` uses of
// it, and no more. Threads, warps and blocks are those of `block.h`.
#pragma once
#include <limits.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "block.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
// One block at a time runs on a thread of the machine. `poison` in `launch.cpp` finds them all.
#define __shared__ static thread_local

#define threadIdx (card::self().index)
#define blockIdx (card::self().block->index)
#define blockDim (card::self().block->threads)
#define gridDim (card::self().block->grid)

inline void __syncthreads() { card::wait_for_block(); }
inline void __syncwarp() { card::wait_for_warp(card::nothing); }

// The value of another lane; all lanes of a warp take part.
template <typename T> inline T value_of(T value, int lane) {
    static_assert(sizeof(T) <= sizeof(uint64_t), "a shuffle has 8 bytes at most");
    card::Slot &slot = card::slot();
    memcpy(&slot.shuffle.given, &value, sizeof value);
    slot.shuffle.lane = lane;
    card::wait_for_warp(card::shuffle);
    memcpy(&value, &slot.shuffle.got, sizeof value);
    return value;
}

#define WHOLE_WARP(mask) card::check((mask) == 0xffffffff, "a shuffle names a part of a warp")

template <typename T> inline T __shfl_xor_sync(unsigned mask, T value, int lanes) {
    WHOLE_WARP(mask);
    return value_of(value, card::self().lane ^ lanes);
}

template <typename T> inline T __shfl_up_sync(unsigned mask, T value, int lanes) {
    WHOLE_WARP(mask);
    int lane = card::self().lane;
    return value_of(value, lane >= lanes ? lane - lanes : lane);
}

// Of shared memory only, which the other threads of a block do not touch meanwhile.
inline uint32_t atomicMin(uint32_t *at, uint32_t value) {
    uint32_t before = *at;
    *at = value < before ? value : before;
    return before;
}

struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) uint2 { uint32_t x, y; };
struct alignas(16) uint4 { uint32_t x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }

inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }

inline uint32_t __float_as_uint(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

inline float __uint_as_float(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

struct __nv_bfloat16 {
    uint16_t bits;
    __nv_bfloat16() = default;
    // To the nearest, of two the even one.
    explicit __nv_bfloat16(float x) {
        uint32_t wide = __float_as_uint(x);
        bits = x != x ? 0x7fff : (wide + 0x7fff + (wide >> 16 & 1)) >> 16;
    }
    operator float() const { return __uint_as_float((uint32_t)bits << 16); }
};

struct __nv_bfloat162 { __nv_bfloat16 x, y; };
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return __nv_bfloat16(x); }
inline float __bfloat162float(__nv_bfloat16 x) { return x; }
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {__nv_bfloat16(x), __nv_bfloat16(y)}; }
