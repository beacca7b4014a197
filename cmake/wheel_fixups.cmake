# Use: -DCMAKE_PROJECT_INCLUDE=<this file>, when ROS comes from PyPI wheels (harmless with any other ROS).
# Both functions run at the end of the top CMakeLists.txt, after all find_package calls (CMake >= 3.20).

# The CMake exports of the wheels list include folders of the machine that built them (/opt/python/...), and CMake
# refuses imported targets with include folders that do not exist.
function(drop_missing_include_folders)
  get_property(targets DIRECTORY PROPERTY IMPORTED_TARGETS)
  foreach(target IN LISTS targets)
    get_target_property(folders ${target} INTERFACE_INCLUDE_DIRECTORIES)
    if(NOT folders)
      continue()
    endif()
    set(kept "")
    foreach(folder IN LISTS folders)
      if(NOT IS_ABSOLUTE "${folder}" OR EXISTS "${folder}")  # relative also covers generator expressions
        list(APPEND kept "${folder}")
      endif()
    endforeach()
    set_property(TARGET ${target} PROPERTY INTERFACE_INCLUDE_DIRECTORIES "${kept}")
  endforeach()
endfunction()

# With the virtual environment inside the source folder (.venv), NumPy's headers are too, and CMake refuses to export
# our own targets with a path into the sources. They are needed to build only.
function(keep_source_include_folders_private)
  get_property(targets DIRECTORY PROPERTY BUILDSYSTEM_TARGETS)
  foreach(target IN LISTS targets)
    get_target_property(folders ${target} INTERFACE_INCLUDE_DIRECTORIES)
    if(NOT folders)
      continue()
    endif()
    set(marked "")
    foreach(folder IN LISTS folders)
      cmake_path(IS_PREFIX CMAKE_SOURCE_DIR "${folder}" inside)
      if(inside)
        set(folder "$<BUILD_INTERFACE:${folder}>")
      endif()
      list(APPEND marked "${folder}")
    endforeach()
    set_property(TARGET ${target} PROPERTY INTERFACE_INCLUDE_DIRECTORIES "${marked}")
  endforeach()
endfunction()

cmake_language(DEFER CALL drop_missing_include_folders)
cmake_language(DEFER CALL keep_source_include_folders_private)
