// A whole file, mapped for reading; its pages are read when they are first used.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "fail.h"

namespace program {

class MappedFile {
  public:
    explicit MappedFile(const std::string& path) {
        const int fd = open(path.c_str(), O_RDONLY);
        struct stat about;
        if (fd < 0 || fstat(fd, &about) != 0) fail("%s: cannot be opened; %s", path.c_str(), std::strerror(errno));
        if (!S_ISREG(about.st_mode)) fail("%s: expected a file", path.c_str());
        size_ = size_t(about.st_size);
        if (size_ > 0) {
            void* at = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd, 0);
            if (at == MAP_FAILED) fail("%s: cannot be mapped; %s", path.c_str(), std::strerror(errno));
#if defined(MADV_HUGEPAGE)
            madvise(at, size_, MADV_HUGEPAGE);  // weights are read faster through large pages, where the system has them
#endif
            data_ = static_cast<const unsigned char*>(at);
        }
        close(fd);
    }

    const unsigned char* data() const { return data_; }
    size_t size() const { return size_; }

  private:
    const unsigned char* data_ = nullptr;
    size_t size_ = 0;
};

}  // namespace program
