// How many threads compute unless asked: one for each physical core that this process may use.
#pragma once

#include <sched.h>
#include <unistd.h>

#include <fstream>
#include <set>
#include <string>

namespace program {

inline int physical_cores() {
#if defined(__linux__)
    cpu_set_t usable;
    if (sched_getaffinity(0, sizeof usable, &usable) == 0) {
        std::set<std::string> cores;  // hardware threads of one core name the same siblings
        int threads = 0;
        for (int i = 0; i < CPU_SETSIZE; ++i) {
            if (!CPU_ISSET(i, &usable)) continue;
            ++threads;
            std::ifstream file("/sys/devices/system/cpu/cpu" + std::to_string(i) + "/topology/thread_siblings_list");
            std::string siblings;
            if (std::getline(file, siblings)) cores.insert(siblings);
        }
        if (!cores.empty()) return int(cores.size());
        if (threads > 0) return threads;
    }
#endif
    const long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? int(online) : 1;
}

}  // namespace program
