# What `cmake --install` writes: bin/tandem with its man pages and completions, include/tandem/, one library of all
# components, the licence, and the files with which another project finds it: find_package(tandem CONFIG) and
# target_link_libraries(... tandem::tandem), or pkg-config.
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
  fmt::fmt Threads::Threads PkgConfig::PCRE2 PkgConfig::UTF8PROC PkgConfig::XXHASH PkgConfig::GMP
  PkgConfig::ZSTD PkgConfig::ZLIB protobuf::libprotobuf-lite)

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

# A static library leaves its dependencies to whoever links it.
file(RELATIVE_PATH TANDEM_PC_PREFIX ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
if(BUILD_SHARED_LIBS)
  set(TANDEM_PC_REQUIRES Requires.private)
else()
  set(TANDEM_PC_REQUIRES Requires)
endif()
configure_file(cmake/tandem.pc.in ${CMAKE_CURRENT_BINARY_DIR}/tandem.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/tandem.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})

find_program(HELP2MAN help2man)
if(TARGET tandem AND NOT CMAKE_CROSSCOMPILING)
  install(CODE "
    set(PROGRAM \"$<TARGET_FILE:tandem>\")
    set(VERSION \"${PROJECT_VERSION}\")
    set(HELP2MAN \"$<$<BOOL:${HELP2MAN}>:${HELP2MAN}>\")
    set(OUT \"${CMAKE_CURRENT_BINARY_DIR}/texts\")
    set(DATADIR \"${CMAKE_INSTALL_DATADIR}\")
    set(MANDIR \"${CMAKE_INSTALL_MANDIR}\")
    include(\"${CMAKE_CURRENT_SOURCE_DIR}/cmake/install_texts.cmake\")")
endif()
