// A mistake of the user's, or of the machine's, ends the program with one line on stderr and exit code 2.
#pragma once

#include <cstdarg>
#include <cstdio>
#include <cstdlib>

namespace program {

[[noreturn]] __attribute__((format(printf, 1, 2))) inline void fail(const char* format, ...) {
    std::fflush(stdout);
    std::va_list arguments;
    va_start(arguments, format);
    std::vfprintf(stderr, format, arguments);
    va_end(arguments);
    std::fputc('\n', stderr);
    std::exit(2);
}

}  // namespace program
