# What `cmake --install` writes: bin/tandem, include/tandem/, one library of all components, and the package files with
# which another project finds it: find_package(tandem CONFIG) and target_link_libraries(... tandem::tandem).
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(TANDEM_PACKAGE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/tandem)

# Static unless BUILD_SHARED_LIBS says otherwise. The file is libtandem, the target tandem::tandem.
get_property(components GLOBAL PROPERTY TANDEM_COMPONENTS)
list(TRANSFORM components REPLACE "(.+)" "$<TARGET_OBJECTS:\\1>" OUTPUT_VARIABLE objects)
add_library(tandem_library ${objects})
add_library(tandem::tandem ALIAS tandem_library)
set_target_properties(tandem_library PROPERTIES
  OUTPUT_NAME tandem
  EXPORT_NAME tandem
  LINKER_LANGUAGE CXX
  VERSION ${PROJECT_VERSION}
  SOVERSION ${PROJECT_VERSION_MAJOR})
target_compile_features(tandem_library INTERFACE cxx_std_20)
target_include_directories(tandem_library INTERFACE
  $<BUILD_INTERFACE:${CMAKE_CURRENT_SOURCE_DIR}/include>
  $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
# The public headers need the standard library alone, so these are link dependencies only.
target_link_libraries(tandem_library PRIVATE
  fmt::fmt Threads::Threads PkgConfig::PCRE2 PkgConfig::UTF8PROC PkgConfig::XXHASH PkgConfig::GMP)

install(TARGETS tandem_library EXPORT tandem)
if(TARGET tandem)
  install(TARGETS tandem)
endif()
install(DIRECTORY include/tandem DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
  FILES_MATCHING PATTERN "*.hpp" PATTERN "*.h")
install(EXPORT tandem FILE tandemTargets.cmake NAMESPACE tandem:: DESTINATION ${TANDEM_PACKAGE_DIR})
configure_package_config_file(cmake/tandemConfig.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/tandemConfig.cmake
  INSTALL_DESTINATION ${TANDEM_PACKAGE_DIR})
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/tandemConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/tandemConfig.cmake ${CMAKE_CURRENT_BINARY_DIR}/tandemConfigVersion.cmake
  DESTINATION ${TANDEM_PACKAGE_DIR})
