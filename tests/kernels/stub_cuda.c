/* A CUDA driver library made of host memory, for tests on machines without a GPU.
 *
 * It offers the functions that smalti_kernels.impl.cuda.driver calls, under their real names and signatures. "Device" memory is
 * host memory, so copies really copy, and a launch hands the packed arguments to a function of the test, which may do on
 * that memory what the kernel would do. Every call is recorded as a line; any of them can be told to fail.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef int (*launch_function)(const unsigned char *arguments, size_t size, unsigned grid, unsigned threads,
                               uintptr_t function);

static char log_text[1 << 20];
static size_t log_size;
static char fail_name[64];
static int fail_code, fail_after;
static int capability = 80, version = 12080, devices = 1;
static unsigned char image[1 << 22];
static size_t image_size;
static launch_function on_launch;
static char busy;
static long allocated;
enum { MOST = 4096 };
static struct { uintptr_t address; size_t size; } regions[MOST]; /* device memory that is not freed */
static struct { uintptr_t handle; unsigned char *image; size_t size; } modules[MOST];
static struct { uintptr_t handle; size_t module; } functions[MOST];
static size_t module_count, function_count;
static uintptr_t next_handle = 0x1000;
enum { DEEPEST = 1024 };
static __thread uintptr_t stack[DEEPEST];
static __thread int depth;

/* What tests call. */
const char *stub_log(void) { log_text[log_size] = 0; return log_text; }
void stub_reset(void) {
    log_size = image_size = 0; fail_name[0] = 0; fail_code = fail_after = 0; on_launch = NULL;
    capability = 80; version = 12080; devices = 1; allocated = 0; depth = 0;
    memset(regions, 0, sizeof regions);
    while (module_count) free(modules[--module_count].image);
    function_count = 0;
}
void stub_fail(const char *name, int code, int after) {
    snprintf(fail_name, sizeof fail_name, "%s", name); fail_code = code; fail_after = after;
}
void stub_machine(int of_capability, int of_version, int of_devices) {
    capability = of_capability; version = of_version; devices = of_devices;
}
void stub_on_launch(launch_function function) { on_launch = function; }
size_t stub_image(unsigned char *to, size_t size) {
    if (to) memcpy(to, image, size < image_size ? size : image_size);
    return image_size;
}
/* The image of the module that a function was found in. */
const unsigned char *stub_image_of(uintptr_t function, size_t *size) {
    for (size_t i = 0; i < function_count; i++)
        if (functions[i].handle == function) {
            *size = modules[functions[i].module].size;
            return modules[functions[i].module].image;
        }
    return NULL;
}
/* Device memory in use: addresses and sizes of up to `most` allocations. */
size_t stub_regions(uintptr_t *addresses, size_t *sizes, size_t most) {
    size_t count = 0;
    for (size_t i = 0; i < MOST && count < most; i++)
        if (regions[i].address) { addresses[count] = regions[i].address; sizes[count++] = regions[i].size; }
    return count;
}
long stub_allocated(void) { return allocated; }
void stub_make_current(uintptr_t context) { depth = 0; if (context) stack[depth++] = context; }

static uintptr_t new_handle(void) { return __atomic_fetch_add(&next_handle, 1, __ATOMIC_SEQ_CST); }


static int enter(const char *name, const char *what) {
    int code = 0;
    while (__atomic_test_and_set(&busy, __ATOMIC_ACQUIRE)) {} /* several threads may call at once */
    if (log_size + strlen(name) + strlen(what) + 3 < sizeof log_text)
        log_size += (size_t)sprintf(log_text + log_size, "%s%s%s\n", name, *what ? " " : "", what);
    if (!strcmp(name, fail_name) && fail_after-- <= 0) code = fail_code;
    __atomic_clear(&busy, __ATOMIC_RELEASE);
    return code;
}
#define ENTER(...)                                                                                                     \
    do {                                                                                                               \
        static __thread char what[1 << 16];                                                                            \
        snprintf(what, sizeof what, "" __VA_ARGS__);                                                                   \
        int code = enter(__func__, what);                                                                              \
        if (code) return code;                                                                                         \
    } while (0)
#define NEEDS_CONTEXT do { if (!depth) return 201; } while (0)

/* The driver. */
int cuGetErrorName(int code, const char **name) {
    switch (code) {
    case 1: *name = "CUDA_ERROR_INVALID_VALUE"; return 0;
    case 2: *name = "CUDA_ERROR_OUT_OF_MEMORY"; return 0;
    case 100: *name = "CUDA_ERROR_NO_DEVICE"; return 0;
    case 200: *name = "CUDA_ERROR_INVALID_IMAGE"; return 0;
    case 201: *name = "CUDA_ERROR_INVALID_CONTEXT"; return 0;
    case 500: *name = "CUDA_ERROR_NOT_FOUND"; return 0;
    case 700: *name = "CUDA_ERROR_ILLEGAL_ADDRESS"; return 0;
    }
    *name = NULL;
    return 1;
}
int cuGetErrorString(int code, const char **text) {
    const char *name;
    *text = cuGetErrorName(code, &name) ? NULL : "what the stub says of it";
    return *text == NULL;
}
int cuInit(unsigned flags) { ENTER("%u", flags); return 0; }
int cuDriverGetVersion(int *to) { ENTER(); *to = version; return 0; }
int cuDeviceGetCount(int *to) { ENTER(); *to = devices; return 0; }
int cuDeviceGet(int *to, int ordinal) { ENTER("%d", ordinal); *to = ordinal + 70; return 0; }
int cuDeviceGetName(char *to, int size, int device) { ENTER(); snprintf(to, (size_t)size, "Stub %d", device); return 0; }
int cuDeviceGetAttribute(int *to, int attribute, int device) {
    ENTER("%d %d", attribute, device);
    *to = attribute == 75 ? capability / 10 : attribute == 76 ? capability % 10 : attribute == 16 ? 4 : -1;
    return 0;
}
int cuDevicePrimaryCtxRetain(uintptr_t *to, int device) { ENTER("%d", device); *to = 0xC0 + (uintptr_t)device; return 0; }
int cuCtxGetCurrent(uintptr_t *to) { ENTER(); *to = depth ? stack[depth - 1] : 0; return 0; }
int cuCtxGetDevice(int *to) { ENTER(); NEEDS_CONTEXT; *to = 70; return 0; }
int cuCtxGetId(uintptr_t context, unsigned long long *to) { ENTER(); *to = context * 10; return 0; }
int cuCtxPushCurrent_v2(uintptr_t context) { ENTER("%#lx", context);
    if (depth == DEEPEST) return 2;
    stack[depth++] = context;
    return 0; }
int cuCtxPopCurrent_v2(uintptr_t *to) { ENTER(); NEEDS_CONTEXT; *to = stack[--depth]; return 0; }
int cuModuleLoadData(uintptr_t *to, const unsigned char *data) {
    ENTER(); NEEDS_CONTEXT;
    if (!memcmp(data, "\177ELF", 4)) { /* the headers' tables lie last */
        uint64_t programs, sections; uint16_t sizes[4];
        memcpy(&programs, data + 32, 8); memcpy(&sections, data + 40, 8); memcpy(sizes, data + 54, 8);
        uint64_t a = programs + (uint64_t)sizes[0] * sizes[1], b = sections + (uint64_t)sizes[2] * sizes[3];
        image_size = a > b ? a : b;
    } else image_size = strlen((const char *)data);
    memcpy(image, data, image_size);
    *to = new_handle();
    if (module_count == MOST) return 2;
    modules[module_count].handle = *to;
    modules[module_count].size = image_size;
    memcpy(modules[module_count++].image = malloc(image_size), data, image_size);
    return 0;
}
int cuModuleGetFunction(uintptr_t *to, uintptr_t module, const char *name) {
    ENTER("%s", name); NEEDS_CONTEXT;
    *to = new_handle();
    for (size_t i = 0; i < module_count && function_count < MOST; i++)
        if (modules[i].handle == module) {
            functions[function_count].handle = *to;
            functions[function_count++].module = i;
        }
    return 0;
}
int cuLaunchKernel(uintptr_t function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, uintptr_t stream, void **parameters, void **extra) {
    if (parameters || (uintptr_t)extra[0] != 1 || (uintptr_t)extra[2] != 2 || extra[4]) return 1;
    const unsigned char *bytes = extra[1];
    size_t size = *(size_t *)extra[3];
    static __thread char hex[8192];
    for (size_t i = 0; i < size; i++) sprintf(hex + 2 * i, "%02x", bytes[i]);
    ENTER("grid=%u,%u,%u block=%u,%u,%u shared=%u stream=%#lx arguments=%s", gx, gy, gz, bx, by, bz, shared, stream, hex);
    NEEDS_CONTEXT;
    return on_launch ? on_launch(bytes, size, gx, bx, function) : 0;
}
int cuStreamCreate(uintptr_t *to, unsigned flags) { ENTER("%u", flags); NEEDS_CONTEXT; *to = new_handle(); return 0; }
int cuStreamDestroy_v2(uintptr_t stream) { ENTER("%#lx", stream); return 0; }
int cuStreamSynchronize(uintptr_t stream) { ENTER("%#lx", stream); NEEDS_CONTEXT; return 0; }
/* An event is the host's clock when it was recorded, since a stream never has work left. */
int cuEventCreate(uintptr_t *to, unsigned flags) {
    ENTER("%u", flags); NEEDS_CONTEXT; *to = (uintptr_t)calloc(1, sizeof(struct timespec)); return *to ? 0 : 2;
}
int cuEventRecord(uintptr_t event, uintptr_t stream) {
    ENTER("stream=%#lx", stream); NEEDS_CONTEXT; clock_gettime(CLOCK_MONOTONIC, (struct timespec *)event); return 0;
}
int cuEventSynchronize(uintptr_t event) { ENTER(); NEEDS_CONTEXT; (void)event; return 0; }
int cuEventElapsedTime(float *to, uintptr_t start, uintptr_t end) {
    ENTER(); NEEDS_CONTEXT;
    const struct timespec *a = (struct timespec *)start, *b = (struct timespec *)end;
    *to = (float)((double)(b->tv_sec - a->tv_sec) * 1e3 + (double)(b->tv_nsec - a->tv_nsec) / 1e6);
    return 0;
}
int cuEventDestroy_v2(uintptr_t event) { ENTER(); NEEDS_CONTEXT; free((void *)event); return 0; }
int cuMemAlloc_v2(uintptr_t *to, size_t size) {
    ENTER("%zu", size); NEEDS_CONTEXT;
    *to = (uintptr_t)aligned_alloc(256, (size + 255) / 256 * 256);
    if (!*to) return 2;
    memset((void *)*to, 0xA5, size); /* what nobody wrote is not zero */
    __atomic_fetch_add(&allocated, 1, __ATOMIC_SEQ_CST);
    while (__atomic_test_and_set(&busy, __ATOMIC_ACQUIRE)) {}
    for (size_t i = 0; i < MOST; i++)
        if (!regions[i].address) { regions[i].address = *to; regions[i].size = size; break; }
    __atomic_clear(&busy, __ATOMIC_RELEASE);
    return 0;
}
int cuMemFree_v2(uintptr_t pointer) {
    ENTER(); NEEDS_CONTEXT;
    while (__atomic_test_and_set(&busy, __ATOMIC_ACQUIRE)) {}
    for (size_t i = 0; i < MOST; i++)
        if (regions[i].address == pointer) regions[i].address = 0;
    __atomic_clear(&busy, __ATOMIC_RELEASE);
    free((void *)pointer);
    __atomic_fetch_sub(&allocated, 1, __ATOMIC_SEQ_CST);
    return 0;
}
int cuMemHostAlloc(uintptr_t *to, size_t size, unsigned flags) {
    ENTER("%zu %u", size, flags); NEEDS_CONTEXT;
    *to = (uintptr_t)malloc(size);
    __atomic_fetch_add(&allocated, 1, __ATOMIC_SEQ_CST);
    return *to ? 0 : 2;
}
int cuMemFreeHost(uintptr_t pointer) {
    ENTER(); NEEDS_CONTEXT;
    free((void *)pointer);
    __atomic_fetch_sub(&allocated, 1, __ATOMIC_SEQ_CST);
    return 0;
}
int cuMemcpyDtoDAsync_v2(uintptr_t to, uintptr_t from, size_t size, uintptr_t stream) {
    ENTER("%zu stream=%#lx", size, stream); NEEDS_CONTEXT; memcpy((void *)to, (void *)from, size); return 0;
}
int cuMemcpyHtoDAsync_v2(uintptr_t to, const void *from, size_t size, uintptr_t stream) {
    ENTER("%zu stream=%#lx", size, stream); NEEDS_CONTEXT; memcpy((void *)to, from, size); return 0;
}
int cuMemcpyDtoHAsync_v2(void *to, uintptr_t from, size_t size, uintptr_t stream) {
    ENTER("%zu stream=%#lx", size, stream); NEEDS_CONTEXT; memcpy(to, (void *)from, size); return 0;
}
