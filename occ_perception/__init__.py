"""3D occupancy perception for robots and cars: a ROS-free core with thin ROS 2 front ends.

``import occ_perception`` needs neither ROS nor a GPU.  ``extend_path`` lets a source checkout and the
message classes generated into site-packages (``occ_perception.msg``) act as one package.
"""

import os as _os
from pkgutil import extend_path

# A vehicle's cores are shared with cameras, planners and DDS.  By default the threads of one operation wait for each
# other by spinning, and on busy cores that wait is many times the work (measured: LiDAR carving 20 times slower beside
# two busy processes).  Both are read when torch and NumPy load, so they are set here; what the user set stays.
_os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
_os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

__path__ = extend_path(__path__, __name__)
__version__ = "0.1.0"
