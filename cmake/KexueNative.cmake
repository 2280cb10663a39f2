# Can the C++ parts be built here? Sets KEXUE_NATIVE_REASON: empty where they can, else why not.
# Included at file scope, because enable_language() insists on it.
set(KEXUE_NATIVE_REASON "")

if(KEXUE_NATIVE STREQUAL "OFF")
  set(KEXUE_NATIVE_REASON "switched off by KEXUE_NATIVE=OFF")
else()
  # check_language() trusts a compiler given with -D; hand it over as CXX so that it is tried as well.
  if(DEFINED CMAKE_CXX_COMPILER AND NOT CMAKE_CXX_COMPILER_LOADED)
    if(CMAKE_CXX_COMPILER)
      set(ENV{CXX} "${CMAKE_CXX_COMPILER}")
    endif()
    unset(CMAKE_CXX_COMPILER)
    unset(CMAKE_CXX_COMPILER CACHE)
  endif()
  include(CheckLanguage)
  check_language(CXX)
  if(NOT CMAKE_CXX_COMPILER)
    set(KEXUE_NATIVE_REASON "no working C++ compiler was found")
  else()
    enable_language(CXX)
    set(KEXUE_COMPILER "${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}")
  endif()
endif()

if(KEXUE_NATIVE_REASON STREQUAL "")
  find_package(Python 3.10 COMPONENTS Interpreter Development.Module ${SKBUILD_SABI_COMPONENT})
  find_package(Threads)
  if(NOT Python_Interpreter_FOUND)
    set(KEXUE_NATIVE_REASON "no Python 3.10 or newer was found")
  elseif(NOT Python_Development.Module_FOUND)
    set(KEXUE_NATIVE_REASON
        "the headers of Python ${Python_VERSION} were not found (a package such as python3-dev has them)")
  elseif(NOT Threads_FOUND)
    set(KEXUE_NATIVE_REASON "no thread library was found")
  elseif(CMAKE_CXX_COMPILER_ID STREQUAL "MSVC")
    set(KEXUE_NATIVE_REASON "MSVC has no vector extensions; use clang-cl (CXX=clang-cl, Ninja)")
  else()
    execute_process(
      COMMAND "${Python_EXECUTABLE}" -m nanobind --cmake_dir
      OUTPUT_VARIABLE nanobind_ROOT OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    find_package(nanobind CONFIG QUIET)
    if(NOT nanobind_FOUND)
      set(KEXUE_NATIVE_REASON "nanobind is not installed for ${Python_EXECUTABLE}")
    endif()
  endif()
endif()

if(KEXUE_NATIVE_REASON STREQUAL "")
  set(probe_flags ${KEXUE_FLAGS} ${KEXUE_FLAGS_${KEXUE_HIGHEST_LEVEL}})
  kexue_spell(probe_flags)
  list(JOIN probe_flags " " probe_flags)
  try_compile(
    KEXUE_PROBE
    SOURCES "${CMAKE_CURRENT_LIST_DIR}/probe.cpp"
    CMAKE_FLAGS "-DINCLUDE_DIRECTORIES=${Python_INCLUDE_DIRS}" "-DCMAKE_CXX_FLAGS=${probe_flags}"
    LINK_LIBRARIES Threads::Threads
    OUTPUT_VARIABLE probe_log
    CXX_STANDARD 17 CXX_STANDARD_REQUIRED ON CXX_EXTENSIONS OFF)
  if(NOT KEXUE_PROBE)
    unset(KEXUE_PROBE CACHE) # the next configure tries again
    string(REGEX MATCH "[^\n]*error[^\n]*" probe_error "${probe_log}")
    set(KEXUE_NATIVE_REASON
        "${KEXUE_COMPILER} does not compile the probe: ${probe_error}")
  endif()
endif()
