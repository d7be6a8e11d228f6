{{/* Matchers of the series of this release. PodMonitors set both labels on every series. */}}
{{- define "thumbwheel.scope" -}}
{{- printf "namespace=%q,release=%q" .Release.Namespace .Release.Name -}}
{{- end -}}

{{/* Services of which a pod must exist, as a YAML list. */}}
{{- define "thumbwheel.requiredJobs" -}}
{{- range $name, $_ := include "thumbwheel.known" . | fromYaml }}
{{- if gt (int (include "thumbwheel.least" (include "thumbwheel.values" (list $ $name) | fromYaml))) 0 }}
- {{ $name }}
{{- end }}
{{- end }}
{{- if eq .Values.serving.mode "deployment" }}
- predictor
{{- end }}
{{- end -}}

{{/* Matchers of the claims of this release, for series of the kubelet, which have no release. */}}
{{- define "thumbwheel.claimMatchers" -}}
{{- $full := include "thumbwheel.fullname" . -}}
{{- $claims := list (include "thumbwheel.modelsClaim" .) -}}
{{- if .Values.training.enabled -}}{{ $claims = append $claims (include "thumbwheel.loopClaim" .) }}{{ end -}}
{{- if .Values.corpus.enabled -}}
{{- range list "input" "output" }}{{ $claims = append $claims (index $.Values.corpus .).existingClaim }}{{ end -}}
{{- end -}}
{{- if .Values.backup.enabled }}{{ with .Values.backup.claim.existingClaim }}{{ $claims = append $claims . }}{{ end }}{{ end -}}
{{- $names := list -}}
{{- range uniq $claims }}{{ $names = append $names (replace "." "[.]" .) }}{{ end -}}
{{- range $name, $facts := include "thumbwheel.known" . | fromYaml -}}
  {{- if $facts.spool }}{{ $names = append $names (printf "spool-%s-%s-[0-9]+" $full $name) }}{{ end -}}
{{- end -}}
{{- if .Values.evaluation.enabled -}}
{{- range $name, $_ := include "thumbwheel.evaluationStores" . | fromYaml }}{{ $names = append $names (printf "data-%s-%s-0" $full $name) }}{{ end -}}
{{- end -}}
{{- if .Values.kafka.strimzi.enabled -}}{{ $names = append $names (printf "data-[0-9]+-%s-brokers-[0-9]+" $full) }}{{ end -}}
{{- printf "namespace=%q,persistentvolumeclaim=~%q" .Release.Namespace (join "|" $names) -}}
{{- end -}}

{{/* Matchers of the CronJob of the backups, for series of kube-state-metrics. */}}
{{- define "thumbwheel.backupMatchers" -}}
{{- printf "namespace=%q,cronjob=%q" .Release.Namespace (include "thumbwheel.name" (list . "backup")) -}}
{{- end -}}

{{/* Address of the folder with the runbooks: the value, or that of a source of the chart on GitHub or
     GitLab; otherwise empty. */}}
{{- define "thumbwheel.runbooks" -}}
{{- $given := .Values.monitoring.rules.runbookBaseUrl -}}
{{- range .Chart.Sources -}}
  {{- if and (not $given) (regexMatch "^https://git(hub|lab)[.]" .) }}{{ $given = printf "%s/blob/main/docs/runbooks" (trimSuffix "/" .) }}{{ end -}}
{{- end -}}
{{- trimSuffix "/" $given -}}
{{- end -}}

{{/* Groups of alert rules for this release: files/alerts.yaml without its placeholders. */}}
{{- define "thumbwheel.alertGroups" -}}
{{- $rules := .Values.monitoring.rules -}}
{{- $required := include "thumbwheel.requiredJobs" . | fromYamlArray -}}
{{- $services := append (include "thumbwheel.known" . | fromYaml | keys | sortAlpha) "predictor" | join "|" -}}
{{- $text := .Files.Get "files/alerts.yaml" | replace "<scope>" (include "thumbwheel.scope" .) | replace "<claims>" (include "thumbwheel.claimMatchers" .) | replace "<backups>" (include "thumbwheel.backupMatchers" .) | replace "<services>" $services -}}
{{- $own := dict "namespace" .Release.Namespace "release" .Release.Name -}}
{{- $runbooks := include "thumbwheel.runbooks" . -}}
{{- $groups := list -}}
{{- range $group := ($text | fromYaml).groups -}}
  {{- $kept := list -}}
  {{- range $rule := $group.rules -}}
    {{- if not (has $rule.alert $rules.disabled) -}}
      {{- $lines := list -}}
      {{- range $line := splitList "\n" (trim $rule.expr) -}}
        {{- if contains "<service>" $line -}}
          {{- range $required }}{{ $lines = append $lines (replace "<service>" . $line) }}{{ end -}}
        {{- else }}{{ $lines = append $lines $line }}{{ end -}}
      {{- end -}}
      {{- $expression := join "\n" $lines -}}
      {{- range $name, $value := index $rules.thresholds $rule.alert | default dict -}}
        {{- if eq $name "for" }}{{ $_ := set $rule "for" $value -}}
        {{- else }}{{ $expression = regexReplaceAllLiteral (printf "<%s=[^>]*>" $name) $expression (toString $value) }}{{ end -}}
      {{- end -}}
      {{- $_ := set $rule "expr" (regexReplaceAll "<[A-Za-z]+=([^>]*)>" $expression "${1}") -}}
      {{- $_ := set $rule "labels" (merge $rule.labels $own) -}}
      {{- with $runbooks }}{{ $_ := set $rule.annotations "runbook_url" (printf "%s/%s.md" . $rule.alert) }}{{ end -}}
      {{- $kept = append $kept $rule -}}
    {{- end -}}
  {{- end -}}
  {{- if $kept }}{{ $groups = append $groups (dict "name" $group.name "rules" $kept) }}{{ end -}}
{{- end -}}
{{- toYaml $groups -}}
{{- end -}}
