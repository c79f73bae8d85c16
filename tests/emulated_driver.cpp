// Runs one step of generated code on memory that lies in a file: test programs for machines that are only emulated.
//
//   driver FILE WEIGHTS STATES threads function live OFFSET...
//
// Offsets into FILE: of each weight, of each state, of the arena, of ids, pos, slot and rows.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

extern "C" void* graphllm_open(const void* const* weights, void* const* states, void* arena, int threads);
extern "C" void graphllm_step(void* handle, int function, const int32_t* ids, const int32_t* pos, const int32_t* slot,
                              const int32_t* rows, int live);
extern "C" void graphllm_close(void* handle);

int main(int count, char** words) {
    const int file = open(words[1], O_RDWR), weights = std::atoi(words[2]), states = std::atoi(words[3]);
    struct stat status;
    if (file < 0 || fstat(file, &status) != 0 || count != 7 + weights + states + 5) return 3;
    void* memory = mmap(nullptr, size_t(status.st_size), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (memory == MAP_FAILED) return 4;
    std::vector<void*> at;
    for (int i = 7; i < count; ++i) at.push_back(static_cast<char*>(memory) + std::atol(words[i]));
    void** rest = at.data() + weights + states;
    void* handle = graphllm_open(at.data(), at.data() + weights, rest[0], std::atoi(words[4]));
    if (handle == nullptr) return 5;
    const auto input = [&](int i) { return static_cast<const int32_t*>(rest[i]); };
    graphllm_step(handle, std::atoi(words[5]), input(1), input(2), input(3), input(4), std::atoi(words[6]));
    graphllm_close(handle);
    return 0;
}
