{{/* A dashboard of this release, as JSON. Grafana refuses a second dashboard with the same uid, or
     with the same title in a folder. Arguments: list of root and file. */}}
{{- define "thumbwheel.dashboard" -}}
{{- $root := index . 0 -}}
{{- $name := base (index . 1) | trimSuffix ".json" -}}
{{- $release := printf "%s/%s" $root.Release.Namespace $root.Release.Name -}}
{{- $own := dict "namespace" $root.Release.Namespace "release" $root.Release.Name -}}
{{- $tags := list "thumbwheel" $release -}}
{{- $board := $root.Files.Get (index . 1) | fromJson -}}
{{- /* At most 40 characters. */ -}}
{{- $_ := set $board "uid" (printf "thumbwheel-%s-%s" (sha256sum $release | trunc 12) $name) -}}
{{- $_ := set $board "title" (replace "Thumbwheel:" (printf "Thumbwheel %s:" $release) $board.title) -}}
{{- $_ := set $board "tags" $tags -}}
{{- range $board.links }}{{ $_ := set . "tags" $tags }}{{ end -}}
{{- range $variable := $board.templating.list -}}
  {{- with index $own .name }}{{ $_ := set $variable "current" (dict "selected" true "text" . "value" .) }}{{ end -}}
{{- end -}}
{{- $lines := index ($root.Files.Get "files/panel_thresholds.yaml" | fromYaml) $name | default dict -}}
{{- range $panel := $board.panels -}}
  {{- with index $lines (toString .id) -}}
    {{- $given := index $root.Values.monitoring.rules.thresholds (splitList "." . | first) | default dict -}}
    {{- $key := splitList "." . | last -}}
    {{- if hasKey $given $key }}{{ $_ := set (last $panel.fieldConfig.defaults.thresholds.steps) "value" (index $given $key) }}{{ end -}}
  {{- end -}}
{{- end -}}
{{- toJson $board -}}
{{- end -}}
