// Uses the public API as another project would.
#include <cstdio>

#include <tandem/tandem.hpp>

int main() { std::printf("tandem %s\n", tandem::version()); }
