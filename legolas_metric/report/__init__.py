"""Charts and the self-contained HTML report, from records; needs the extra `report`."""

from legolas_metric.report.figures import bars as bars
from legolas_metric.report.figures import cmc as cmc
from legolas_metric.report.figures import curves as curves
from legolas_metric.report.figures import det as det
from legolas_metric.report.figures import drift_and_age as drift_and_age
from legolas_metric.report.figures import projection as projection
from legolas_metric.report.figures import rank1_against_gallery as rank1_against_gallery
from legolas_metric.report.figures import roc as roc
from legolas_metric.report.figures import similarity_histogram as similarity_histogram
from legolas_metric.report.figures import spectra as spectra
from legolas_metric.report.page import Section as Section
from legolas_metric.report.page import page_html as page_html
from legolas_metric.report.page import write_page as write_page
from legolas_metric.report.pictures import Card as Card
from legolas_metric.report.pictures import Gallery as Gallery
from legolas_metric.report.run_sections import Remark as Remark
from legolas_metric.report.run_sections import run_sections as run_sections
from legolas_metric.report.sections import collapse_sections as collapse_sections
from legolas_metric.report.sections import plane_section as plane_section
from legolas_metric.report.sections import ranking_sections as ranking_sections
from legolas_metric.report.sections import verification_sections as verification_sections
from legolas_metric.report.sections import worst_gallery as worst_gallery
from legolas_metric.tables import Table as Table
