// Uses the public API as another project would.
#include <iostream>

#include <tandem/tandem.hpp>

int main() { std::cout << "tandem " << tandem::version() << '\n'; }
